//! The one place that knows the terminal: what is printed, in colours or not.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

/// Text for standard output, printed at the end.
#[derive(Debug)]
pub(super) struct Output {
    text: String,
    colours: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Colour {
    Plain,
    Faint,
    Green,
    Yellow,
    Red,
    Bold,
}

/// Whether a person called, with a command line, and not a runtime.
pub(crate) fn is_wanted() -> bool {
    !is_set("CNI_COMMAND") && env::args_os().len() > 1
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment of a person's shell, which is no request of a runtime"
)]
fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

impl Output {
    /// Colours only for eyes: on a terminal, and not where they are not wanted
    /// (<https://no-color.org>).
    pub(super) fn new() -> Self {
        Self {
            text: String::new(),
            colours: io::stdout().is_terminal() && !is_set("NO_COLOR"),
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(super) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    pub(super) fn json(&mut self, document: &serde_json::Value) {
        // Strings, numbers and lists always serialise.
        let text = serde_json::to_string_pretty(document).unwrap_or_default();
        self.line(&text);
    }

    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Plain => return text.to_owned(),
            Colour::Faint => "2",
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Bold => "1",
        };
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Prints all. A reader that went away (`| head`) is no failure.
    pub(super) fn print(&self) {
        let mut stdout = io::stdout();
        let written = stdout.write_all(self.text.as_bytes());
        drop(written.and_then(|()| stdout.flush()));
    }
}
