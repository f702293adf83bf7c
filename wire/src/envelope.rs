//! What all envelopes have.

/// Each message as the envelope that carries it.
macro_rules! enveloped {
    ($envelope:ident, $module:ident: $($message:ident)*) => {
        $(
            #[allow(clippy::needless_update, reason = "some envelopes have more than a body")]
            impl From<$message> for $envelope {
                fn from(message: $message) -> Self {
                    Self { body: Some($module::Body::$message(message)), ..Self::default() }
                }
            }
        )*
    };
}
