//! The words and signs of an nginx file, each with its line. What they mean is left to others.

use std::fmt;

/// A piece of an nginx file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Without its quotes, its escapes resolved.
    Word(String),
    Semicolon,
    Open,
    Close,
}

/// Why a text is not made of words and signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Error {
    /// A character right behind the end of a quoted word.
    BehindQuote(char),
    /// The text ends within a quoted word; the line is where that began.
    OpenQuote(char),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BehindQuote(found) => write!(
                f,
                "unexpected {found:?} behind a quoted word; expected a space, `;` or `{{`"
            ),
            Self::OpenQuote(quote) => write!(f, "no {quote} closes the word that begins here"),
        }
    }
}

/// Reads a text token by token.
pub(super) struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text.chars().peekable(),
            line: 1,
        }
    }

    /// The next token and the line on which it begins; None at the end.
    pub(super) fn next(&mut self) -> Result<Option<(Token, usize)>, (Error, usize)> {
        self.skip_blanks();
        let line = self.line;
        let Some(&first) = self.rest.peek() else {
            return Ok(None);
        };
        let token = match first {
            ';' => Token::Semicolon,
            '{' => Token::Open,
            // Only where a word could begin: `a}` is a word.
            '}' => Token::Close,
            '"' | '\'' => {
                self.bump();
                let word = self.quoted(first).map_err(|error| (error, line))?;
                return Ok(Some((Token::Word(word), line)));
            }
            _ => return Ok(Some((Token::Word(self.bare()), line))),
        };
        self.bump();
        Ok(Some((token, line)))
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    /// Passes over white space and comments. A `#` within a word is none.
    fn skip_blanks(&mut self) {
        while let Some(&next) = self.rest.peek() {
            match next {
                ' ' | '\t' | '\r' | '\n' => {
                    self.bump();
                }
                '#' => while self.bump().is_some_and(|c| c != '\n') {},
                _ => return,
            }
        }
    }

    fn bare(&mut self) -> String {
        let mut word = String::new();
        let mut behind_dollar = false;
        while let Some(&next) = self.rest.peek() {
            match next {
                ' ' | '\t' | '\r' | '\n' | ';' => break,
                // `${name}` is part of a word.
                '{' if !behind_dollar => break,
                '\\' => {
                    self.bump();
                    self.escape(&mut word);
                    behind_dollar = false;
                    continue;
                }
                _ => {}
            }
            behind_dollar = next == '$' || (next == '{' && behind_dollar);
            word.extend(self.bump());
        }
        word
    }

    fn quoted(&mut self, quote: char) -> Result<String, Error> {
        let mut word = String::new();
        loop {
            match self.bump() {
                None => return Err(Error::OpenQuote(quote)),
                Some('\\') => self.escape(&mut word),
                Some(c) if c == quote => break,
                Some(c) => word.push(c),
            }
        }
        match self.rest.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | ';' | '{') => Ok(word),
            // As in nginx, where a closing bracket may follow for the sake of `if (... "x")`.
            Some(')') => Ok(word),
            Some(&other) => Err(Error::BehindQuote(other)),
        }
    }

    /// Resolves what stands behind a backslash. Of unknown escapes the backslash stays, so that
    /// regular expressions can be written without doubling it.
    fn escape(&mut self, word: &mut String) {
        match self.bump() {
            None => word.push('\\'),
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(other) => {
                word.push('\\');
                word.push(other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut lexer = Lexer::new(text);
        std::iter::from_fn(|| lexer.next().unwrap())
            .map(|(token, _)| token)
            .collect()
    }

    fn words(text: &str) -> Vec<String> {
        tokens(text)
            .into_iter()
            .filter_map(|token| match token {
                Token::Word(word) => Some(word),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn words_end_at_space_semicolon_and_brace() {
        let word = |text: &str| Token::Word(text.to_owned());
        assert_eq!(
            tokens("a b{c;}\n"),
            [
                word("a"),
                word("b"),
                Token::Open,
                word("c"),
                Token::Semicolon,
                Token::Close
            ]
        );
        assert_eq!(words("a# b"), ["a#", "b"], "a comment begins a word");
        assert_eq!(words("a #b\nc"), ["a", "c"]);
        assert_eq!(words("a}"), ["a}"]);
    }

    #[test]
    fn quotes_and_escapes_are_those_of_nginx() {
        for (text, word) in [
            (r#""a b;{}#""#, "a b;{}#"),
            (r#"'a"b'"#, "a\"b"),
            (r#""a\"b""#, "a\"b"),
            (r"a\ b", r"a\ b"),
            (r"\.png$", r"\.png$"),
            (r"\\.png", r"\.png"),
            (r#"a"b"#, "a\"b"),
            (r"'\t'", "\t"),
            ("${host}x", "${host}x"),
            ("''", ""),
        ] {
            assert_eq!(words(text), [word], "{text}");
        }
    }

    #[test]
    fn lines_are_counted_through_comments_and_quotes() {
        let mut lexer = Lexer::new("a # x\n'b\nc' d\ne");
        let mut lines = Vec::new();
        while let Some((_, line)) = lexer.next().unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [1, 2, 3, 4]);
    }

    #[test]
    fn quotes_that_are_not_closed_or_not_followed_by_space_are_errors() {
        assert_eq!(
            Lexer::new("\n'abc").next(),
            Err((Error::OpenQuote('\''), 2))
        );
        assert_eq!(
            Lexer::new("'abc'd").next(),
            Err((Error::BehindQuote('d'), 1))
        );
    }
}
