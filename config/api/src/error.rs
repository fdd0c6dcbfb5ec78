//! What a client is told when a request is refused: a status and one sentence, as plain text.

use skein_model::validate::Invalid;
use skein_store::StoreError;

/// A refusal. Whoever gets one may rely on nothing having changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub status: u16,
    /// What is wrong, naming the field, and what would be right.
    pub message: String,
}

/// Result of everything that answers a client.
pub type ApiResult<T> = Result<T, ApiError>;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:literal;)*) => {
        impl ApiError {
            $($(#[$doc])*
            pub fn $name(message: impl Into<String>) -> Self {
                Self { status: $status, message: message.into() }
            })*
        }
    };
}

refusals! {
    /// 400: the request is wrong in itself or does not fit what exists.
    bad = 400;
    /// 401: the caller does not say who it is.
    unauthorized = 401;
    /// 403: the caller may not do this.
    forbidden = 403;
    /// 404: no such type, object, name or key.
    not_found = 404;
    /// 409: it collides with something that exists.
    conflict = 409;
    /// 412: a quota is used up.
    over_quota = 412;
    /// 413: the body is too large.
    too_large = 413;
    /// 500: our fault.
    internal = 500;
    /// 503: not now; the store cannot be written or the server is stopping.
    unavailable = 503;
    /// 410: the asked-for revision is no longer in the log.
    gone = 410;
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::bad(invalid.to_string())
    }
}

impl From<&StoreError> for ApiError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unknown { .. } => Self::unavailable(error.to_string()),
            _ => Self::unavailable(format!("the write was not stored: {error}")),
        }
    }
}
