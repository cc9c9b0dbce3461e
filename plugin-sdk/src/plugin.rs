//! What every plugin is: a value made from the operator's configuration. What it does is said by the
//! traits of the other files.

use std::error::Error;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A plugin: one value per instance, made from its configuration.
pub trait Plugin: Sized + 'static {
    /// The operator's `config` table; [`NoConfig`] for a plugin that takes none. With
    /// `#[serde(deny_unknown_fields)]` a misspelt key stops the start instead of doing nothing.
    type Config: DeserializeOwned;

    /// Makes the plugin. Called once per instance, before anything else. An error stops the start,
    /// or the reload, with its message; name the key, what was expected and what was found.
    ///
    /// # Errors
    ///
    /// Whatever makes the configuration unusable.
    fn configure(config: Self::Config) -> Result<Self, Box<dyn Error>>;
}

/// The configuration of a plugin that takes none: any key is an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Makes a plugin from its configuration as JSON. The error is for the operator and begins with the
/// path of the key, where one is to blame.
pub(crate) fn configure<P: Plugin>(json: &str) -> Result<P, String> {
    // Through a value: read from text, errors end in a line and column of JSON nobody wrote.
    let value: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let config = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        // serde_path_to_error writes the table itself as a dot.
        if path == "." {
            reason.to_string()
        } else {
            format!("{path}: {reason}")
        }
    })?;
    P::configure(config).map_err(|error| {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        request: Limits,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        sizes: Vec<u8>,
    }

    impl Plugin for Sample {
        type Config = Config;

        fn configure(config: Config) -> Result<Self, Box<dyn Error>> {
            match config.request.sizes.as_slice() {
                [] => Err("request.sizes: expected at least one".into()),
                _ => Ok(Self),
            }
        }
    }

    struct Bare;

    impl Plugin for Bare {
        type Config = NoConfig;

        fn configure(_: NoConfig) -> Result<Self, Box<dyn Error>> {
            Ok(Self)
        }
    }

    fn error<P: Plugin>(json: &str) -> String {
        configure::<P>(json).err().expect("a configuration error")
    }

    #[test]
    fn an_error_names_the_path_and_the_expectation() {
        assert_eq!(
            error::<Sample>(r#"{"request": {"sizes": [1, "big"]}}"#),
            "request.sizes[1]: invalid type: string \"big\", expected u8"
        );
        assert_eq!(error::<Sample>("{}"), "missing field `request`");
        assert_eq!(
            error::<Sample>(r#"{"request": {"size": []}}"#),
            "request.size: unknown field `size`, expected `sizes`"
        );
    }

    #[test]
    fn an_error_of_the_plugin_is_its_own() {
        assert_eq!(
            error::<Sample>(r#"{"request": {"sizes": []}}"#),
            "request.sizes: expected at least one"
        );
    }

    #[test]
    fn a_plugin_without_configuration_refuses_one() {
        assert!(configure::<Bare>("{}").is_ok());
        assert_eq!(
            error::<Bare>(r#"{"word": 1}"#),
            "word: unknown field `word`, there are no fields"
        );
    }
}
