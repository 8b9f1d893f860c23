//! Certificates for a broker that speaks TLS, made afresh for each.

use crate::Error;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The name in the client's certificate, and the user that it logs in as.
pub const USER: &str = "gear-client";

/// What a client needs to speak to a broker over TLS, and to fail at it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Tls {
    /// The port for `amqps`.
    pub port: u16,
    /// The authority that signed the broker's and the client's certificates.
    pub ca_pem: String,
    /// The client's certificate, for [`USER`].
    pub client_cert_pem: String,
    /// The client's key (PKCS #8).
    pub client_key_pem: String,
    /// Another authority of the same name, which signed nothing of the broker's.
    pub wrong_ca_pem: String,
    /// A certificate for [`USER`] from that other authority.
    pub wrong_client_cert_pem: String,
    /// The key to it (PKCS #8).
    pub wrong_client_key_pem: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Tls {
    /// `amqps://localhost:PORT/%2f`: for EXTERNAL, who one is stands in the certificate.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqps://localhost:{}/%2f", self.port)
    }

    /// `amqps://guest:guest@localhost:PORT/%2f`, for PLAIN over TLS.
    #[must_use]
    pub fn password_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.port)
    }
}

/// What the broker reads, beside what its clients do.
pub(crate) struct Made {
    pub(crate) client: Tls,
    pub(crate) server_cert_pem: String,
    pub(crate) server_key_pem: String,
}

pub(crate) fn make() -> Result<Made, Error> {
    generate().map_err(|error| Error::Start(format!("certificates: {error}")))
}

fn generate() -> Result<Made, rcgen::Error> {
    let (right, ca_pem) = authority()?;
    let (wrong, wrong_ca_pem) = authority()?;
    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let (server_cert_pem, server_key_pem) = sign(&server, "localhost", &right)?;
    let mut client = CertificateParams::new([])?;
    client.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let (client_cert_pem, client_key_pem) = sign(&client, USER, &right)?;
    let (wrong_client_cert_pem, wrong_client_key_pem) = sign(&client, USER, &wrong)?;
    let client = Tls {
        port: 0,
        ca_pem,
        client_cert_pem,
        client_key_pem,
        wrong_ca_pem,
        wrong_client_cert_pem,
        wrong_client_key_pem,
    };
    Ok(Made { client, server_cert_pem, server_key_pem })
}

fn authority() -> Result<(Issuer<'static, KeyPair>, String), rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "Gear test authority");
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}

fn sign(
    params: &CertificateParams,
    name: &str,
    by: &Issuer<'_, KeyPair>,
) -> Result<(String, String), rcgen::Error> {
    let mut params = params.clone();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, by)?.pem(), key.serialize_pem()))
}
