//! What can go wrong between a tool and a cluster.

use std::fmt;

use protocol::error::ErrorCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The list of addresses, or one of them, cannot be used.
    Bootstrap(String),
    /// No connection, or one that broke; a later attempt may succeed.
    Network(String),
    /// No answer in time; names the call.
    Timeout(String),
    /// The broker has no version in common with this client.
    Unsupported(String),
    /// An answer that does not decode.
    Malformed(String),
    /// The broker's own error.
    Server { code: ErrorCode, message: String },
    /// The request cannot be written in the version that the broker speaks.
    Encode(String),
}

impl ClientError {
    pub fn server(code: ErrorCode, message: Option<&str>) -> ClientError {
        let message = match message {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => default_message(code),
        };
        ClientError::Server { code, message }
    }

    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The exception that a Java client would throw, class and message.
    pub fn exception(&self) -> String {
        match self {
            ClientError::Bootstrap(text) => format!("org.apache.kafka.common.config.ConfigException: {text}"),
            ClientError::Network(text) => format!("org.apache.kafka.common.errors.DisconnectException: {text}"),
            ClientError::Timeout(text) => format!("org.apache.kafka.common.errors.TimeoutException: {text}"),
            ClientError::Unsupported(text) => {
                format!("org.apache.kafka.common.errors.UnsupportedVersionException: {text}")
            }
            ClientError::Malformed(text) | ClientError::Encode(text) => {
                format!("org.apache.kafka.common.protocol.types.SchemaException: {text}")
            }
            ClientError::Server { code, message } => format!("{}: {message}", exception_class(*code)),
        }
    }

    pub fn is_transient(&self) -> bool {
        match self {
            ClientError::Network(_) => true,
            ClientError::Server { code, .. } => code.is_retriable(),
            _ => false,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Bootstrap(text)
            | ClientError::Network(text)
            | ClientError::Timeout(text)
            | ClientError::Unsupported(text)
            | ClientError::Malformed(text)
            | ClientError::Encode(text) => f.write_str(text),
            ClientError::Server { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for ClientError {}

/// The Java class with its package; a few live outside of `errors`.
pub fn exception_class(code: ErrorCode) -> String {
    match code {
        ErrorCode::InvalidRecord => "org.apache.kafka.common.InvalidRecordException".to_owned(),
        code => format!("org.apache.kafka.common.errors.{}", code.exception()),
    }
}

/// Words for an error that came without any.
fn default_message(code: ErrorCode) -> String {
    match code {
        // Recorded from Kafka, as a user sees it when a topic is missing.
        ErrorCode::UnknownTopicOrPartition => "This server does not host this topic-partition.".to_owned(),
        ErrorCode::OffsetOutOfRange => {
            "The requested offset is not within the range of offsets maintained by the server.".to_owned()
        }
        code => format!("the broker answered {} ({})", code.name(), code as i16),
    }
}
