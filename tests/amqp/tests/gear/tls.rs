//! TLS, and logging in with a certificate.

use crate::bare::within;
use gear_test_amqp::{Broker, Options, Tls, image, private_is_container};
use lapin::{
    Connection, ConnectionProperties,
    tcp::{OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPUri, SASLMechanism},
};

#[tokio::test]
async fn a_private_broker_speaks_tls() {
    speaks_tls(Options { tls: true, ..Options::default() }).await;
}

#[tokio::test]
async fn a_container_speaks_tls() {
    if private_is_container() {
        return; // The test above shows it.
    }
    let image = Some(image());
    speaks_tls(Options { tls: true, image, ..Options::default() }).await;
}

async fn speaks_tls(options: Options) {
    let broker = Broker::private_with(options).await;
    let tls = broker.tls();
    let identity = || Some((tls.client_cert_pem.as_str(), tls.client_key_pem.as_str()));
    connect(&tls.password_url(), &tls.ca_pem, None).await.expect("the broker's CA is known");
    external(tls, &tls.ca_pem, identity()).await.expect("the certificate says who it is");

    let wrong = connect(&tls.password_url(), &tls.wrong_ca_pem, None).await;
    assert!(wrong.is_err(), "another CA is not this broker's");
    let nobody = external(tls, &tls.ca_pem, None).await;
    assert!(nobody.is_err(), "without a certificate nobody logs in");
    let wrong = Some((tls.wrong_client_cert_pem.as_str(), tls.wrong_client_key_pem.as_str()));
    let wrong = external(tls, &tls.ca_pem, wrong).await;
    assert!(wrong.is_err(), "nor with another's");
}

async fn external(tls: &Tls, ca: &str, identity: Option<(&str, &str)>) -> lapin::Result<()> {
    connect(&format!("{}?auth_mechanism=external", tls.url()), ca, identity).await
}

async fn connect(url: &str, ca: &str, identity: Option<(&str, &str)>) -> lapin::Result<()> {
    let uri: AMQPUri = url.parse().expect("an URL");
    let external = uri.query.auth_mechanism == Some(SASLMechanism::External);
    assert_eq!(external, url.contains("external"));
    let identity = identity.map(|(pem, key)| OwnedIdentity::PKCS8 {
        pem: pem.as_bytes().to_vec(),
        key: key.as_bytes().to_vec(),
    });
    let config = OwnedTLSConfig { identity, cert_chain: Some(ca.to_owned()) };
    let runtime = lapin::runtime::default_runtime()?;
    let options = ConnectionProperties::default();
    let connecting = Connection::connect_uri_with_config(uri, options, config, runtime);
    let connection = within(connecting).await?;
    let _channel = within(connection.create_channel()).await?;
    within(connection.close(200, "done".into())).await
}
