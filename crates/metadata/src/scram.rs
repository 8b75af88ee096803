//! SCRAM credentials as the metadata log holds them: what DescribeUserScramCredentials tells of them (KIP-554).

use std::collections::BTreeMap;

use protocol::error::ErrorCode;
use protocol::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult as Described,
};
use protocol::messages::{DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse};

use crate::image::MetadataImage;

impl MetadataImage {
    pub fn describe_user_scram_credentials(
        &self,
        request: &DescribeUserScramCredentialsRequest<'_>,
    ) -> DescribeUserScramCredentialsResponse<'static> {
        // Each user with how often it was asked for.
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        match request.users.as_deref() {
            None | Some([]) => users.extend(self.scram.keys().map(|(user, _)| (user.as_str(), 1))),
            Some(asked) => {
                for user in asked {
                    *users.entry(&user.name).or_insert(0) += 1;
                }
            }
        }
        let results = users.into_iter().map(|(user, times)| self.describe_scram_user(user, times)).collect();
        DescribeUserScramCredentialsResponse { error_message: None, results, ..Default::default() }
    }

    fn describe_scram_user(&self, user: &str, times: usize) -> Described<'static> {
        let of_user = self.scram.range((user.to_owned(), i8::MIN)..=(user.to_owned(), i8::MAX));
        let infos: Vec<CredentialInfo> = of_user
            .map(|((_, mechanism), credential)| CredentialInfo {
                mechanism: *mechanism,
                iterations: credential.iterations,
                ..Default::default()
            })
            .collect();
        let (error, message) = match (times, infos.is_empty()) {
            (2.., _) => (
                ErrorCode::DuplicateResource,
                Some(format!("Cannot describe SCRAM credentials for the same user twice in a single request: {user}")),
            ),
            (_, true) => (
                ErrorCode::ResourceNotFound,
                Some(format!("Attempt to describe a user credential that does not exist: {user}")),
            ),
            (_, false) => (ErrorCode::None, None),
        };
        Described {
            user: user.to_owned().into(),
            error_code: error.into(),
            error_message: message.map(Into::into),
            credential_infos: if error == ErrorCode::None { infos } else { Vec::new() },
            ..Default::default()
        }
    }
}
