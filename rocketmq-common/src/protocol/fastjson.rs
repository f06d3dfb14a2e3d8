//! Reads values as leniently as fastjson, with which Java's brokers read what clients of other languages write.
//!
//! Functions for `#[serde(deserialize_with)]`. A number may be a text, a flag a number or a text, an enum its ordinal,
//! and `null` is the default; an unknown name of an enum is the default, too. Text that is no number stays an error.
//!
//! # Protocol
//! Java: fastjson 1.2 (brokers up to 5.3) and fastjson2. Witness: scenario `heartbeats::of_other_languages_are_read`.

use serde::{
    Deserialize, Deserializer,
    de::{Error, IntoDeserializer, value},
};

/// A JSON value that is neither an object nor an array.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Flag(bool),
    Integer(i64),
    Fraction(f64),
    Text(String),
}

impl Scalar {
    /// The integer that fastjson makes of it: without the digits after the point; `None` for an empty text.
    fn integer<E: Error>(&self) -> Result<Option<i64>, E> {
        match self {
            Self::Flag(flag) => Ok(Some(i64::from(*flag))),
            Self::Integer(number) => Ok(Some(*number)),
            Self::Fraction(number) => truncated(*number).map(Some),
            Self::Text(text) if text.is_empty() => Ok(None),
            Self::Text(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => {
                    truncated(text.parse().map_err(|_| E::custom(format_args!("{text:?} is not a number")))?).map(Some)
                }
            },
        }
    }
}

/// The integer before the point, up to 2^53: above it, a fraction does not tell integers apart.
#[expect(clippy::cast_possible_truncation, reason = "checked to be an integer of at most 53 bits")]
fn truncated<E: Error>(number: f64) -> Result<i64, E> {
    const LIMIT: f64 = 9_007_199_254_740_992.0;
    // Not a number is not within the limit, either.
    if number.abs() <= LIMIT {
        Ok(number.trunc() as i64)
    } else {
        Err(E::custom(format_args!("{number} is out of range")))
    }
}

fn in_range<T: TryFrom<i64>, E: Error>(number: i64) -> Result<T, E> {
    T::try_from(number).map_err(|_| E::custom(format_args!("{number} is out of range")))
}

/// An integer; 0 for `null` and an empty text.
pub(super) fn number<'de, D: Deserializer<'de>, T: TryFrom<i64> + Default>(deserializer: D) -> Result<T, D::Error> {
    match Option::<Scalar>::deserialize(deserializer)?.map(|scalar| scalar.integer()) {
        None => Ok(T::default()),
        Some(number) => number?.map_or_else(|| Ok(T::default()), in_range),
    }
}

/// Integers; those that are `null` or an empty text are left out, and `null` is none at all.
pub(super) fn numbers<'de, D: Deserializer<'de>, T: TryFrom<i64>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let scalars = Option::<Vec<Option<Scalar>>>::deserialize(deserializer)?.unwrap_or_default();
    let numbers = scalars.iter().flatten().filter_map(|scalar| scalar.integer().transpose());
    numbers.map(|number| in_range(number?)).collect()
}

/// A flag; `false` for `null`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Option::<Scalar>::deserialize(deserializer)? {
        None => Ok(false),
        Some(Scalar::Flag(flag)) => Ok(flag),
        Some(Scalar::Text(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Scalar::Text(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(scalar) => Ok(scalar.integer()?.unwrap_or(0) != 0),
    }
}

/// A text, also of a number or a flag; empty for `null`.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<Scalar>::deserialize(deserializer)?.map(text_of).unwrap_or_default())
}

/// Texts, also of numbers and flags; `null` is left out among them, and none at all in their place.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let scalars = Option::<Vec<Option<Scalar>>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(scalars.into_iter().flatten().map(text_of).collect())
}

fn text_of(scalar: Scalar) -> String {
    match scalar {
        Scalar::Text(text) => text,
        Scalar::Flag(flag) => flag.to_string(),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Fraction(number) => number.to_string(),
    }
}

/// A list; none for `null`.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An enum that Java reads by name or ordinal, and as `null` where it knows neither: then it is the default here.
pub(super) trait JavaEnum: for<'de> Deserialize<'de> + Copy + Default + 'static {
    /// The values in the order in which Java declares them.
    const BY_ORDINAL: &'static [Self];
}

/// The value of a [`JavaEnum`].
pub(super) fn named<'de, D: Deserializer<'de>, T: JavaEnum>(deserializer: D) -> Result<T, D::Error> {
    let value = match Option::<Scalar>::deserialize(deserializer)? {
        Some(Scalar::Text(name)) => {
            let name: value::StringDeserializer<value::Error> = name.into_deserializer();
            T::deserialize(name).ok()
        }
        Some(Scalar::Integer(ordinal)) => {
            usize::try_from(ordinal).ok().and_then(|ordinal| T::BY_ORDINAL.get(ordinal)).copied()
        }
        _ => None,
    };
    Ok(value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    fn read<T>(json: &str, reader: impl FnOnce(Value) -> Result<T, serde_json::Error>) -> Result<T, String> {
        reader(serde_json::from_str(json).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn integers_are_read_from_texts_fractions_and_null() {
        for (json, expected) in [
            ("7", 7),
            ("-7", -7),
            ("\"7\"", 7),
            ("\"-2147483648\"", i32::MIN),
            ("7.0", 7),
            ("\"7.9\"", 7),
            ("true", 1),
            ("null", 0),
            ("\"\"", 0),
        ] {
            assert_eq!(read(json, number::<_, i32>), Ok(expected), "{json}");
        }
        assert_eq!(read("1796005250701597427", number::<_, i64>), Ok(1_796_005_250_701_597_427));
        assert_eq!(read("\"1796005250701597427\"", number::<_, i64>), Ok(1_796_005_250_701_597_427));
        for json in ["4297566215", "\"4297566215\"", "\"x\"", "1e300", "\"NaN\"", "[]", "{}"] {
            assert!(read(json, number::<_, i32>).is_err(), "{json}");
        }
    }

    #[test]
    fn lists_leave_out_what_is_null() {
        assert_eq!(read(r#"["7", 8, null, "", 9.0]"#, numbers::<_, i32>), Ok(vec![7, 8, 9]));
        assert_eq!(read("null", numbers::<_, i32>), Ok(vec![]));
        assert!(read(r#"["7", "x"]"#, numbers::<_, i32>).is_err());
        assert_eq!(read(r#"["a", 1, null, true]"#, texts), Ok(["a", "1", "true"].map(str::to_owned).to_vec()));
        assert_eq!(read("null", texts), Ok(vec![]));
        assert_eq!(read("null", list::<_, Value>), Ok(vec![]));
        assert!(read("7", list::<_, Value>).is_err());
    }

    #[test]
    fn flags_and_texts_are_read_from_other_scalars() {
        for (json, expected) in
            [("true", true), ("\"TRUE\"", true), ("1", true), ("0", false), ("\"false\"", false), ("null", false)]
        {
            assert_eq!(read(json, flag), Ok(expected), "{json}");
        }
        assert!(read("\"yes\"", flag).is_err());
        for (json, expected) in [("\"a\"", "a"), ("17", "17"), ("false", "false"), ("null", "")] {
            assert_eq!(read(json, text).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn enums_are_read_by_name_and_ordinal() {
        use crate::protocol::{ConsumeFrom, ConsumeType, MessageModel};

        fn check<T: JavaEnum + DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>() {
            for (ordinal, value) in T::BY_ORDINAL.iter().enumerate() {
                assert_eq!(read(&ordinal.to_string(), named::<_, T>), Ok(*value));
                assert_eq!(read(&serde_json::to_string(value).unwrap(), named::<_, T>), Ok(*value));
            }
            for json in ["null", "\"UNKNOWN\"", "\"\"", "99", "-1"] {
                assert_eq!(read(json, named::<_, T>), Ok(T::default()), "{json}");
            }
        }
        check::<MessageModel>();
        check::<ConsumeType>();
        check::<ConsumeFrom>();
        assert_eq!(read("0", named::<_, MessageModel>), Ok(MessageModel::Broadcasting));
        assert_eq!(read("5", named::<_, ConsumeFrom>), Ok(ConsumeFrom::Timestamp));
    }
}
