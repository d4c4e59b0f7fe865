//! `rebloom tls`: the certificates of a cluster.

use crate::args::TlsCommand;
use crate::failure::Failure;
use crate::format;
use rebloom_core::id::NodeId;
use rebloom_runtime::tls::{Authority, Role};
use std::path::Path;

pub(crate) fn run(command: TlsCommand) -> Result<(), Failure> {
    match command {
        TlsCommand::Init { dir, nodes, admins } => {
            let made = make(&dir, &nodes, &admins)?;
            let place = dir.display();
            format::line(&format!("{place}/ca.pem     everyone needs this"));
            format::line(&format!(
                "{place}/ca.key     signs certificates; keep it here, give it to nobody"
            ));
            for role in made {
                let stem = role.file_stem();
                format::line(&format!("{place}/{stem}.pem, {stem}.key     {role}"));
            }
            Ok(())
        }
    }
}

/// Makes what is missing and renews what is there.
pub(crate) fn make(
    directory: &Path,
    nodes: &[NodeId],
    admins: &[NodeId],
) -> Result<Vec<Role>, Failure> {
    let authority = Authority::create(directory)?;
    let mut roles = vec![Role::Controller];
    roles.extend(admins.iter().map(|name| Role::Admin(name.to_string())));
    roles.extend(nodes.iter().cloned().map(Role::Agent));
    for role in &roles {
        authority.issue(role)?;
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doing_it_again_adds_and_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str| NodeId::new(name).unwrap();
        make(folder.path(), &[node("a")], &[node("admin")]).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let (authority, key) = (read("ca.pem"), read("agent-a.key"));
        make(folder.path(), &[node("a"), node("b")], &[node("admin")]).unwrap();
        assert_eq!(read("ca.pem"), authority);
        assert_eq!(read("agent-a.key"), key, "the holder stays who it is");
        assert!(folder.path().join("agent-b.pem").exists());
    }
}
