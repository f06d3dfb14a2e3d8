//! Durations of configurations, written as short texts such as `"5s"`.
//!
//! For `#[serde(with)]` on a field of type [`Duration`]; [`option`] is for an `Option` of one. A text has units, and may
//! have several of them: `"500ms"`, `"15m"`, `"1h 30m"`, `"2days"`. The struct form of serde, `{ secs = 5, nanos = 0 }`, is
//! read as well. Formats that are not for people, such as bincode, have the struct form alone.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Config {
//!     #[serde(with = "rocketmq_remote::duration")]
//!     timeout: Duration,
//! }
//!
//! let config: Config = serde_json::from_str(r#"{ "timeout": "1500ms" }"#)?;
//! assert_eq!(config.timeout, Duration::from_millis(1500));
//! assert_eq!(serde_json::to_string(&config)?, r#"{"timeout":"1s 500ms"}"#);
//! # Ok::<(), serde_json::Error>(())
//! ```

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value},
};
use std::{fmt, time::Duration};

/// Writes a duration as a short text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(&humantime::format_duration(*duration))
    } else {
        duration.serialize(serializer)
    }
}

/// Reads a duration from a text with units, or from its struct form.
///
/// # Errors
/// The text is no duration, or the value is neither of the two.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_any(DurationVisitor)
    } else {
        Duration::deserialize(deserializer)
    }
}

struct DurationVisitor;

impl<'de> Visitor<'de> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, such as \"5s\" or \"500ms\", or a map of secs and nanos")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text).map_err(|error| E::custom(format_args!("{text:?} is no duration: {error}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Duration, A::Error> {
        Duration::deserialize(value::MapAccessDeserializer::new(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Duration, A::Error> {
        Duration::deserialize(value::SeqAccessDeserializer::new(sequence))
    }
}

/// As the module around it, for an `Option<Duration>`. The field needs `#[serde(default)]` to be left out.
pub mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "super")] Duration);

    /// Writes a duration as a short text, if there is one.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(Text).serialize(serializer)
    }

    /// Reads a duration, if there is one, from a text with units, or from its struct form.
    ///
    /// # Errors
    /// The text is no duration, or the value is neither of the two.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Text>::deserialize(deserializer)?.map(|Text(duration)| duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Config {
        #[serde(with = "super")]
        time: Duration,
        #[serde(default, with = "option")]
        limit: Option<Duration>,
    }

    fn read(time: &str) -> Result<Duration, String> {
        let config: Result<Config, _> = serde_json::from_str(&format!(r#"{{"time":{time}}}"#));
        config.map(|config| config.time).map_err(|error| error.to_string())
    }

    #[test]
    fn texts_with_units_and_the_struct_form_are_read() {
        for (json, expected) in [
            (r#""500ms""#, Duration::from_millis(500)),
            (r#""5s""#, Duration::from_secs(5)),
            (r#""15m""#, Duration::from_secs(15 * 60)),
            (r#""1h 30m""#, Duration::from_secs(90 * 60)),
            (r#""3days""#, Duration::from_secs(3 * 24 * 3600)),
            (r#""0s""#, Duration::ZERO),
            (r#"{"secs":5,"nanos":500000000}"#, Duration::from_millis(5500)),
            (r#"[5,0]"#, Duration::from_secs(5)),
        ] {
            assert_eq!(read(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn what_is_no_duration_is_an_error_that_says_what_is_wanted() {
        for (json, hint) in [
            ("5", "such as \"5s\""),
            ("1.5", "such as \"5s\""),
            ("null", "such as \"5s\""),
            (r#""5""#, "\"5\" is no duration: time unit needed"),
            (r#""""#, "is no duration"),
            (r#""5 parsecs""#, "parsecs"),
            (r#""-5s""#, "is no duration"),
            (r#"{"secs":5,"millis":0}"#, "millis"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(hint), "{json}: {error}");
        }
    }

    #[test]
    fn an_option_may_be_left_out_or_null() {
        let read = |json: &str| serde_json::from_str::<Config>(json).unwrap().limit;
        assert_eq!(read(r#"{"time":"1s"}"#), None);
        assert_eq!(read(r#"{"time":"1s","limit":null}"#), None);
        assert_eq!(read(r#"{"time":"1s","limit":"2m"}"#), Some(Duration::from_secs(120)));
        assert_eq!(read(r#"{"time":"1s","limit":{"secs":1,"nanos":0}}"#), Some(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(secs in prop_oneof![0_u64..100_000, any::<u64>()], nanos in 0_u32..1_000_000_000) {
            let config = Config { time: Duration::new(secs, nanos), limit: Some(Duration::new(secs, 0)) };
            let text = serde_json::to_string(&config).unwrap();
            prop_assert!(!text.contains("secs"), "{}", text);
            prop_assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        }
    }
}
