//! The cluster's own certificate authority: a key in a directory, and what it signs.

use super::{Error, Role};
use crate::clock::Wall;
use crate::files;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rebloom_core::time::{Duration, Instant};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Clocks of nodes differ; a certificate made now must be good on a node that is a bit behind.
const SLACK: Duration = Duration::from_secs(3600);
const AUTHORITY_DAYS: u32 = 3650;
const ROLE_DAYS: u32 = 730;

/// Signs certificates for the roles of one cluster.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in `directory`: `ca.pem`, and `ca.key` for its owner only. One that is
    /// there is loaded instead, since replacing it would cut every agent off.
    pub fn create(directory: &Path) -> Result<Self, Error> {
        if directory.join("ca.key").exists() {
            return Self::load(directory);
        }
        files::create_directory(directory)?;
        let make = |error: rcgen::Error| Error::Make {
            role: "the authority".to_owned(),
            error: error.to_string(),
        };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = params("rebloom authority", AUTHORITY_DAYS * DAY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make)?;
        files::write(&directory.join("ca.pem"), certificate.pem().as_bytes())?;
        // The key comes last: where it is, the certificate is too.
        files::write_secret(&directory.join("ca.key"), key.serialize_pem().as_bytes())?;
        Ok(Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Loads the authority that is in `directory`.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let key = read_key(&directory.join("ca.key"))?;
        let path = directory.join("ca.pem");
        let issuer = Issuer::from_ca_cert_pem(&read_text(&path)?, key)
            .map_err(|error| content(&path, "a certificate", &error))?;
        Ok(Self {
            directory: directory.to_owned(),
            issuer,
        })
    }

    /// Writes `<role>.pem` and `<role>.key` beside the authority. A key that is there is kept, so
    /// that doing it again renews the certificate and the holder stays who it is.
    pub fn issue(&self, role: &Role) -> Result<(), Error> {
        self.issue_for(role, ROLE_DAYS * DAY)
    }

    pub(super) fn issue_for(&self, role: &Role, lifetime: Duration) -> Result<(), Error> {
        let path = |ending: &str| {
            self.directory
                .join(format!("{}.{ending}", role.file_stem()))
        };
        let make = |error: rcgen::Error| Error::Make {
            role: role.to_string(),
            error: error.to_string(),
        };
        let key = if path("key").exists() {
            read_key(&path("key"))?
        } else {
            let key = KeyPair::generate().map_err(make)?;
            files::write_secret(&path("key"), key.serialize_pem().as_bytes())?;
            key
        };
        let mut params = params(&role.to_string(), lifetime);
        let name = |text: &str| Ia5String::try_from(text).map_err(make);
        params.subject_alt_names = vec![
            SanType::URI(name(&role.uri())?),
            SanType::DnsName(name(role.server_name())?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match role {
            Role::Admin(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Controller | Role::Agent(_) => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
        };
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        files::write_secret(&path("pem"), certificate.pem().as_bytes())?;
        Ok(())
    }
}

fn params(name: &str, lifetime: Duration) -> CertificateParams {
    let now = SystemTime::UNIX_EPOCH
        + Wall::starting_at_least(Instant::ZERO)
            .now()
            .since(Instant::ZERO);
    let mut params = CertificateParams::default();
    params.not_before = (now - SLACK).into();
    params.not_after = (now - SLACK + lifetime).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn content(path: &Path, what: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Content {
        file: path.display().to_string(),
        what,
        error: error.to_string(),
    }
}

fn read_text(path: &Path) -> Result<String, Error> {
    String::from_utf8(files::read(path)?).map_err(|error| content(path, "text", &error))
}

fn read_key(path: &Path) -> Result<KeyPair, Error> {
    KeyPair::from_pem(&read_text(path)?).map_err(|error| content(path, "a private key", &error))
}
