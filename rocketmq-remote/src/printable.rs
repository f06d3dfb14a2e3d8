//! Texts that come from peers, as they may stand in errors and logs.

use std::borrow::Cow;

/// A text of a peer as it may stand in an error or a log line: control characters are escaped, so that it cannot forge
/// lines or move a terminal's cursor, and what is longer than 512 characters is cut and ends in `…`.
///
/// ```
/// assert_eq!(rocketmq_remote::printable("no route"), "no route");
/// assert_eq!(rocketmq_remote::printable("no\nroute"), "no\\nroute");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    let end = text.char_indices().nth(MAX_CHARS).map(|(at, _)| at);
    let shown = &text[..end.unwrap_or(text.len())];
    if end.is_none() && !shown.contains(is_risky) {
        return Cow::Borrowed(text);
    }
    let mut printed = String::with_capacity(shown.len() + 16);
    for char in shown.chars() {
        if is_risky(char) {
            printed.extend(char.escape_default());
        } else {
            printed.push(char);
        }
    }
    if end.is_some() {
        printed.push('…');
    }
    Cow::Owned(printed)
}

/// A control character, a line separator, or one that changes the direction of the text around it.
fn is_risky(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

const MAX_CHARS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_other_text_is_left_as_it_is() {
        assert!(matches!(printable("Größe 中文 🚀"), Cow::Borrowed("Größe 中文 🚀")));
        assert_eq!(printable("a\r\nb\tc\u{1b}[31m\u{7f}\u{85}"), "a\\r\\nb\\tc\\u{1b}[31m\\u{7f}\\u{85}");
        assert_eq!(printable("user\u{202e}txt\u{2028}"), "user\\u{202e}txt\\u{2028}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "é".repeat(MAX_CHARS + 1);
        assert_eq!(printable(&long), format!("{}…", "é".repeat(MAX_CHARS)));
        let fits = "é".repeat(MAX_CHARS);
        assert_eq!(printable(&fits), fits);
    }
}
