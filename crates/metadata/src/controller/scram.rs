//! AlterUserScramCredentials (KIP-554; `ScramControlManager`): what a broker needs to check a password, and not the
//! password.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use protocol::error::ErrorCode;
use protocol::messages::alter_user_scram_credentials_request::{ScramCredentialDeletion, ScramCredentialUpsertion};
use protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use protocol::messages::*;
use sha2::{Digest, Sha256, Sha512};

use super::{ApiError, Controller, ControllerResult, Record, outcome, own};

const SHA_256: i8 = 1;
const SHA_512: i8 = 2;
const ITERATIONS_MIN: i32 = 4096;
const ITERATIONS_MAX: i32 = 16384;

impl Controller {
    pub fn alter_user_scram_credentials(
        &mut self,
        request: &AlterUserScramCredentialsRequest<'_>,
    ) -> ControllerResult<AlterUserScramCredentialsResponse<'static>> {
        let mut changes: BTreeMap<&str, Result<Record, ApiError>> = BTreeMap::new();
        let deletions = request.deletions.iter().map(|d| (d.name.as_ref(), self.scram_deletion(d)));
        let upsertions = request.upsertions.iter().map(|u| (u.name.as_ref(), self.scram_upsertion(u)));
        for (user, change) in deletions.chain(upsertions) {
            match changes.get_mut(user) {
                None => drop(changes.insert(user, change)),
                Some(earlier) if earlier.is_ok() => {
                    let why = "A user credential cannot be altered twice in the same request";
                    *earlier = Err(ApiError::new(ErrorCode::DuplicateResource, why));
                }
                Some(_) => {}
            }
        }
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(changes.len());
        for (user, change) in changes {
            let (error_code, error_message) = outcome(change.map(|record| records.push(record)));
            results.push(AlterUserScramCredentialsResult {
                user: own(user),
                error_code,
                error_message,
                ..Default::default()
            });
        }
        let records = self.emit(records);
        ControllerResult { records, response: AlterUserScramCredentialsResponse { results, ..Default::default() } }
    }

    fn check_scram(&self, user: &str, mechanism: i8) -> Result<(), ApiError> {
        const SCRAM_FROM: i16 = 11;
        if self.image.metadata_version().0 < SCRAM_FROM {
            let why = "The current metadata.version does not support SCRAM";
            return Err(ApiError::new(ErrorCode::UnsupportedVersion, why));
        }
        if user.is_empty() {
            return Err(ApiError::new(ErrorCode::UnacceptableCredential, "Username must not be empty"));
        }
        if ![SHA_256, SHA_512].contains(&mechanism) {
            return Err(ApiError::new(ErrorCode::UnsupportedSaslMechanism, "Unknown SCRAM mechanism"));
        }
        Ok(())
    }

    fn scram_deletion(&self, deletion: &ScramCredentialDeletion<'_>) -> Result<Record, ApiError> {
        self.check_scram(&deletion.name, deletion.mechanism)?;
        if !self.image.scram.contains_key(&(deletion.name.to_string(), deletion.mechanism)) {
            let why = "Attempt to delete a user credential that does not exist";
            return Err(ApiError::new(ErrorCode::ResourceNotFound, why));
        }
        Ok(MetadataRecord::RemoveUserScramCredential(RemoveUserScramCredentialRecord {
            name: own(&deletion.name),
            mechanism: deletion.mechanism,
            ..Default::default()
        }))
    }

    fn scram_upsertion(&self, upsertion: &ScramCredentialUpsertion<'_>) -> Result<Record, ApiError> {
        self.check_scram(&upsertion.name, upsertion.mechanism)?;
        let unacceptable = |why: &str| Err(ApiError::new(ErrorCode::UnacceptableCredential, why));
        if upsertion.iterations < ITERATIONS_MIN {
            return unacceptable("Too few iterations");
        }
        if upsertion.iterations > ITERATIONS_MAX {
            return unacceptable("Too many iterations");
        }
        // DIFFERS: Kafka fails with the words of Java's cryptography.
        if upsertion.salted_password.is_empty() {
            return unacceptable("the salted password is empty");
        }
        let (stored_key, server_key) = keys(upsertion.mechanism, &upsertion.salted_password);
        Ok(MetadataRecord::UserScramCredential(UserScramCredentialRecord {
            name: own(&upsertion.name),
            mechanism: upsertion.mechanism,
            salt: upsertion.salt.to_vec().into(),
            stored_key: stored_key.into(),
            server_key: server_key.into(),
            iterations: upsertion.iterations,
            ..Default::default()
        }))
    }
}

/// StoredKey and ServerKey of RFC 5802.
fn keys(mechanism: i8, salted_password: &[u8]) -> (Vec<u8>, Vec<u8>) {
    const CLIENT: &[u8] = b"Client Key";
    const SERVER: &[u8] = b"Server Key";
    macro_rules! keys {
        ($hash:ty) => {{
            let mac = |text: &[u8]| {
                let mac = Hmac::<$hash>::new_from_slice(salted_password).expect("HMAC takes keys of any length");
                mac.chain_update(text).finalize().into_bytes().to_vec()
            };
            (<$hash>::digest(mac(CLIENT)).to_vec(), mac(SERVER))
        }};
    }
    if mechanism == SHA_512 { keys!(Sha512) } else { keys!(Sha256) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 7677, section 3: user "user", password "pencil".
    #[test]
    fn keys_of_the_example() {
        let salted = [
            0xc4, 0xa4, 0x95, 0x10, 0x32, 0x3a, 0xb4, 0xf9, 0x52, 0xca, 0xc1, 0xfa, 0x99, 0x44, 0x19, 0x39, 0xe7, 0x8e,
            0xa7, 0x4d, 0x6b, 0xe8, 0x1d, 0xdf, 0x70, 0x96, 0xe8, 0x75, 0x13, 0xdc, 0x61, 0x5d,
        ];
        let (stored, server) = keys(SHA_256, &salted);
        assert_eq!(hex(&stored), "586e5df283e6dceb5c3e791d8b8528ec191e664045ce971792e2e6b5bb13e2a6");
        assert_eq!(hex(&server), "c1f3cbc1c13a9d35a14c0990eed97629ea225863e566a4314ab99f3f00e5d9d5");
        assert_eq!(keys(SHA_512, &salted).0.len(), 64);
    }
}
