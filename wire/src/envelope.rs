//! What all envelopes have.

/// Each message as the envelope that carries it.
macro_rules! enveloped {
    ($envelope:ident, $module:ident: $($message:ident)*) => {
        $(
            impl From<$message> for $envelope {
                fn from(message: $message) -> Self {
                    Self { body: Some($module::Body::$message(message)) }
                }
            }
        )*
    };
}
