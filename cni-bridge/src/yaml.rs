//! A YAML file piece by piece, in the order in which it stands there. JSON is YAML too.
//!
//! Nothing is ever built of the pieces here, so no anchor can make much out of little.

use std::{borrow::Cow, fmt};

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

/// A piece of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Piece<'a> {
    /// What is written without quotes, and may mean something else than a text: `true`, or
    /// nothing at all.
    Plain(Cow<'a, str>),
    /// What is quoted, or a block, and is a text.
    Text(Cow<'a, str>),
    /// `*name`, which stands for another piece.
    Alias,
    /// A list begins: its elements follow.
    List,
    /// The end of the innermost list.
    ListEnd,
    /// A mapping begins: its keys follow, each with its value.
    Map,
    /// The end of the innermost mapping.
    MapEnd,
    /// The end of a document. Another one may follow.
    DocumentEnd,
}

/// Why a file is no YAML.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Error {
    /// The line where that was noticed; the first is 1.
    pub(crate) line: usize,
    words: String,
}

/// The parser's words, without the line.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Error {}

/// The pieces of a file.
pub(crate) struct Pieces<'a> {
    parser: Parser<'a, StrInput<'a>>,
    line: usize,
    lines: usize,
}

impl fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl<'a> Pieces<'a> {
    /// Begins with the first piece of this text.
    pub(crate) fn of(text: &'a str) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            line: 1,
            lines: text.lines().count().max(1),
        }
    }

    /// The line in which the last piece began; the first is 1.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// The next piece; `None` at the end of the file. Nothing useful comes after an error.
    pub(crate) fn piece(&mut self) -> Result<Option<Piece<'a>>, Error> {
        loop {
            let (event, span) = match self.parser.next_event() {
                None => return Ok(None),
                Some(outcome) => outcome.map_err(|error| Error {
                    line: self.there(error.marker().line()),
                    words: error.info().to_owned(),
                })?,
            };
            self.line = self.there(span.start.line());
            return Ok(Some(match event {
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
                Event::StreamEnd => return Ok(None),
                Event::DocumentEnd => Piece::DocumentEnd,
                Event::Alias(_) => Piece::Alias,
                Event::Scalar(text, ScalarStyle::Plain, ..) => Piece::Plain(text),
                Event::Scalar(text, ..) => Piece::Text(text),
                Event::SequenceStart(..) => Piece::List,
                Event::SequenceEnd => Piece::ListEnd,
                Event::MappingStart(..) => Piece::Map,
                Event::MappingEnd => Piece::MapEnd,
            }));
        }
    }

    /// What is missing at the end is missing in a line that is not there.
    fn there(&self, line: usize) -> usize {
        line.min(self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Piece<'_>>, Error> {
        let mut pieces = Pieces::of(text);
        let mut all = Vec::new();
        while let Some(piece) = pieces.piece()? {
            all.push(piece);
        }
        Ok(all)
    }

    fn plain(text: &str) -> Piece<'_> {
        Piece::Plain(text.into())
    }

    #[test]
    fn json_is_yaml_also_with_tabs() {
        let text = |text| Piece::Text(Cow::Borrowed(text));
        let pieces = all("\n\t{\n\t\t\"a\": [\"b\", true],\n\t\t\"c\":null\n\t}\n").unwrap();
        let expected = [
            Piece::Map,
            text("a"),
            Piece::List,
            text("b"),
            plain("true"),
            Piece::ListEnd,
            text("c"),
            plain("null"),
            Piece::MapEnd,
            Piece::DocumentEnd,
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn an_alias_stays_one() {
        let pieces = all("a: &x [b]\nc: *x\n").unwrap();
        assert_eq!(
            pieces.iter().filter(|piece| **piece == plain("b")).count(),
            1
        );
        assert!(pieces.contains(&Piece::Alias));
    }

    #[test]
    fn documents_end_and_an_empty_file_has_none() {
        assert_eq!(all("# nothing\n").unwrap(), []);
        let ends = all("---\na\n---\nb\n").unwrap();
        let expected = [
            plain("a"),
            Piece::DocumentEnd,
            plain("b"),
            Piece::DocumentEnd,
        ];
        assert_eq!(ends, expected);
    }

    #[test]
    fn an_error_has_its_line() {
        let error = all("a: b\nc: d: e\n").unwrap_err();
        assert_eq!(error.line, 2);
        let words = "mapping values are not allowed in this context";
        assert_eq!(error.to_string(), words);
        assert_eq!(all("a: b\nc: [").unwrap_err().line, 2);
        assert_eq!(all("[").unwrap_err().line, 1);
    }

    #[test]
    fn depth_has_an_end() {
        let error = all(&"[".repeat(1000)).unwrap_err();
        assert_eq!(error.to_string(), "recursion limit exceeded");
    }
}
