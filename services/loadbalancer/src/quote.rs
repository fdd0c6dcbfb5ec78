//! What comes from outside into the text of a configuration.

/// Whether a word can stand in one line: nothing that ends it, and nothing a request's line could not hold either.
pub(crate) fn is_plain(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() && !c.is_whitespace())
}

/// A word in single quotes, in which nothing has a meaning but the quote itself.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A word for a comment: on one line, and short.
pub(crate) fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_everything_but_line_ends() {
        assert_eq!(quoted("/a"), "'/a'");
        assert_eq!(quoted("/it's"), r"'/it'\''s'");
        assert_eq!(quoted("$HOME \"x\" #"), "'$HOME \"x\" #'");
        assert!(!is_plain("a b"));
        assert!(!is_plain("a\nb"));
        assert!(is_plain("/%20;a=b'\"$#\\"));
        assert_eq!(comment("a\nb"), "a b");
    }
}
