//! What `nsc` makes: the JWTs of an operator, an account and a user of NATS (version 2 of nats-io/jwt).

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The keys of an operator with a system account and another one.
pub struct Operator {
    key: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Operator {
    pub fn new() -> Self {
        Operator {
            key: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
        }
    }

    /// The part of nats-server's configuration that makes it trust this operator.
    pub fn configuration(&self) -> String {
        let operator = jwt(
            &self.key,
            &self.key,
            "operator",
            json!({"type": "operator", "version": 2}),
        );
        let account = |account: &KeyPair, name: &str| {
            // Without them nothing would be allowed.
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
                "leaf": -1,
            });
            let claims = json!({"type": "account", "version": 2, "limits": limits});
            format!(
                "  {}: {}\n",
                account.public_key(),
                jwt(&self.key, account, name, claims)
            )
        };
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}{}}}\n",
            self.system.public_key(),
            account(&self.system, "system"),
            account(&self.account, "chat"),
        )
    }

    /// The text of a credentials file of a user that may do everything in the account.
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(&self.account, &user, "readstates", claims),
            user.seed().unwrap()
        )
    }
}

/// A user's key of its own: what the server is to know, and the seed.
pub fn nkey() -> (String, String) {
    let user = KeyPair::new_user();
    (user.public_key(), user.seed().unwrap())
}

fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, claims: Value) -> String {
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = part(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let body = part(json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject.public_key(), "nats": claims,
    }));
    let signed = issuer.sign(format!("{header}.{body}").as_bytes()).unwrap();
    format!("{header}.{body}.{}", BASE64URL_NOPAD.encode(&signed))
}
