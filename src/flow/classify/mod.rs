//! Which route, which client, which documents, poll or write, which class.

pub mod documents;
pub mod shell;
pub mod watching;

use std::{hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher24;

use self::documents::Documents;
use crate::{
    clock::Moment,
    model::{ClientKey, DocumentKeys, Effect, Intent, Scope},
    profile::{Client, Reading},
};

/// The most documents of one request that are remembered and kept apart; those beyond are not.
const DOCUMENTS_MAX: usize = 64;

/// Hashes clients under a key of this process, so that what stands in logs and maps is no name.
#[derive(Debug)]
pub struct ClientHasher {
    key: [u64; 2],
}

impl ClientHasher {
    /// With this key, which must be random.
    #[must_use]
    pub fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// Who is limited and queued fairly (SipHash-2-4).
    #[must_use]
    pub fn key(&self, client: &Client) -> ClientKey {
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        match client {
            Client::Named { name, .. } => {
                hasher.write_u8(1);
                hasher.write(name.as_bytes());
            }
            Client::Address(address) => {
                hasher.write_u8(2);
                match address {
                    IpAddr::V4(address) => hasher.write(&address.octets()),
                    IpAddr::V6(address) => hasher.write(&address.octets()),
                }
            }
        }
        ClientKey(hasher.finish())
    }
}

/// What is asked of the gate: the reading with what is known of its documents. A dear document moves its request to the route's `long`
/// class before it is admitted.
#[must_use]
pub fn intent(reading: &Reading, client: ClientKey, documents: &Documents, now: Moment) -> Intent {
    let mut keys = DocumentKeys::new();
    for scope in reading.reads.iter().chain(&reading.writes) {
        if keys.len() < DOCUMENTS_MAX
            && let Some(key) = documents.key_of(scope)
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    let known = if keys.is_empty() { documents::Known::default() } else { documents.look(&keys, reading.class, now) };
    Intent {
        class: if known.dear { reading.long } else { reading.class },
        long: reading.long,
        client,
        documents: keys,
        writes: reading.effect == Effect::Write,
        unseen: known.unseen,
        stream: reading.stream.is_some(),
    }
}

/// An upgrade that no profile declares writes everything for as long as it is open.
pub fn undeclared_upgrade(reading: &mut Reading) {
    if reading.stream.is_none() {
        reading.writes = vec![Scope::All];
        reading.effect = Effect::Write;
    }
}
