//! How this program is called here. Messages say `rebloom ...`; [`spelled`] writes that so that it can be
//! typed as it stands, also where `rebloom` is not on PATH.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What has to be typed.
struct Called {
    program: String,
    up: String,
}

impl Called {
    fn here() -> Option<Self> {
        let exe = std::env::current_exe().ok()?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        Some(Self::of(&exe, &path, &std::env::current_dir().ok()?))
    }

    /// By where the program lies, what PATH names, and where the user is.
    fn of(exe: &Path, path: &OsStr, here: &Path) -> Self {
        let same = |folder: PathBuf| {
            let found = folder.join("rebloom").canonicalize();
            found.is_ok_and(|found| found == exe)
        };
        if std::env::split_paths(path).any(same) {
            return Self {
                program: "rebloom".to_owned(),
                up: "rebloom up".to_owned(),
            };
        }
        let mut program = exe.strip_prefix(here).unwrap_or(exe).display().to_string();
        if !program.contains('/') {
            program.insert_str(0, "./");
        }
        let checkout = |above: &Path| above.join("xtask/Cargo.toml").is_file();
        let up = if here.ancestors().any(checkout) {
            "cargo xtask up".to_owned()
        } else {
            format!("{program} up")
        };
        Self { program, up }
    }

    fn spell(&self, text: &str) -> String {
        text.replace("`rebloom up", &format!("`{}", self.up))
            .replace("`rebloom ", &format!("`{} ", self.program))
    }
}

/// A text in which every command in backquotes can be typed here.
pub(crate) fn spelled(text: &str) -> String {
    Called::here().map_or_else(|| text.to_owned(), |called| called.spell(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn commands_are_named_as_they_work_here() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = folder.path().canonicalize().unwrap();
        let below = checkout.join("target/debug");
        fs::create_dir_all(&below).unwrap();
        fs::create_dir(checkout.join("xtask")).unwrap();
        let exe = below.join("rebloom");
        fs::write(&exe, "").unwrap();
        fs::write(checkout.join("xtask/Cargo.toml"), "").unwrap();
        let text = "`rebloom up --fresh`, then `rebloom run list`";
        let spelled =
            |path: &Path, here: &Path| Called::of(&exe, path.as_os_str(), here).spell(text);
        assert_eq!(spelled(&below, &checkout), text, "it is on PATH");
        assert_eq!(
            spelled(Path::new("/bin"), &checkout),
            "`cargo xtask up --fresh`, then `target/debug/rebloom run list`"
        );
        let away = spelled(Path::new("/bin"), Path::new("/"));
        assert!(away.contains("debug/rebloom up --fresh`"), "{away}");
    }
}
