//! The documents in `conf/moving-over`, of which the tests take files and commands.
//!
//! A section is what stands under a heading `## …`. In it, a fenced block `json` (or `yaml`) is
//! a file, and a block `console` is what an operator types on the node, behind `# `, with
//! what he sees. In what he sees, `[…]` is anything, and the number of blanks does not count.

use std::{fmt::Write as _, fs, path::Path};

/// What separates the outputs of the commands of a block. No program prints it.
const NEXT: &str = "\u{1}";

/// One document.
#[derive(Debug)]
pub struct Document {
    name: String,
    text: String,
}

/// What stands under one heading.
#[derive(Debug)]
pub struct Section<'a> {
    /// For messages.
    name: String,
    text: &'a str,
}

/// A command and what an operator sees of it.
#[derive(Debug, Eq, PartialEq)]
struct Typed {
    command: String,
    seen: String,
}

impl Document {
    /// `conf/moving-over/<name>.md`.
    pub fn moving_over(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let path = root.join(format!("conf/moving-over/{name}.md"));
        let text = fs::read_to_string(&path);
        Self {
            name: name.to_owned(),
            text: text.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    /// The section with this heading.
    pub fn section(&self, heading: &str) -> Section<'_> {
        let start = format!("\n## {heading}\n");
        let at = self.text.find(&start);
        let at = at.unwrap_or_else(|| panic!("{} has no section \"{heading}\"", self.name));
        let text = self.text.split_at(at + start.len()).1;
        Section {
            name: format!("{}: {heading}", self.name),
            text: text.split("\n## ").next().unwrap_or_default(),
        }
    }
}

impl Section<'_> {
    /// The only file in it that is written in this language.
    pub fn file(&self, language: &str) -> String {
        let mut blocks = self.blocks(language);
        assert_eq!(blocks.len(), 1, "{}: blocks of {language}", self.name);
        blocks.remove(0)
    }

    /// Types what stands in its consoles, and compares what is seen. `run` runs a script on
    /// the node, in a directory with our executables, and returns its output.
    pub fn type_on(&self, run: impl Fn(&str) -> String) {
        let consoles = self.blocks("console");
        assert!(!consoles.is_empty(), "{}: no console", self.name);
        for console in consoles {
            let typed = typed(&console);
            let output = run(&script(&typed));
            let mut outputs = output.split(NEXT).skip(1);
            for Typed { command, seen } in typed {
                let output = outputs.next().unwrap_or_default();
                assert!(
                    fits(&seen, output),
                    "{}: # {command}\nsays\n{output}\nand not\n{seen}",
                    self.name
                );
            }
        }
    }

    fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut rest = self.text;
        while let Some((_, after)) = rest.split_once("\n```") {
            let (head, body) = after.split_once('\n').unwrap();
            let (block, next) = body.split_once("\n```").unwrap();
            if head == language {
                blocks.push(format!("{block}\n"));
            }
            rest = next;
        }
        blocks
    }
}

/// A command ends with its line, unless that ends with a backslash.
fn typed(console: &str) -> Vec<Typed> {
    let mut all: Vec<Typed> = Vec::new();
    let mut goes_on = false;
    for line in console.lines() {
        match (line.strip_prefix("# "), all.last_mut()) {
            (_, Some(last)) if goes_on => {
                last.command.push('\n');
                last.command.push_str(line);
            }
            (Some(command), _) => all.push(Typed {
                command: command.to_owned(),
                seen: String::new(),
            }),
            (None, Some(last)) => {
                last.seen.push_str(line);
                last.seen.push('\n');
            }
            (None, None) => panic!("a console begins with a command, and not with {line:?}"),
        }
        goes_on = line.ends_with('\\') && all.last().is_some_and(|last| last.seen.is_empty());
    }
    all
}

fn script(typed: &[Typed]) -> String {
    let mut script = String::from("exec 2>&1\n");
    for Typed { command, .. } in typed {
        writeln!(script, "printf '\\001'\n{command}").unwrap();
    }
    script
}

fn fits(pattern: &str, text: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, text) = (words(pattern), words(text));
    let mut parts = pattern.split("[…]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let document = Document {
            name: "d".to_owned(),
            text: "# D\n\n## One\n\n```json\n{}\n```\n\n## Two\n\n```json\n[]\n```\n".to_owned(),
        };
        assert_eq!(document.section("One").file("json"), "{}\n");
        assert_eq!(document.section("Two").file("json"), "[]\n");
    }

    #[test]
    fn what_is_typed_is_told_from_what_is_seen() {
        let lines = "# one \\\n  more\n# two\nthis\nand that\n";
        let typed = typed(lines);
        let expected = [("one \\\n  more", ""), ("two", "this\nand that\n")];
        let found: Vec<_> = typed.iter().map(|t| (&*t.command, &*t.seen)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn anything_may_stand_for_an_ellipsis() {
        assert!(fits("a […] c\n", "a   b\nb c"));
        assert!(fits("a[…]", "abc") && fits("", "\n"));
        assert!(!fits("a […] c", "a b d") && !fits("a", "a b") && !fits("", "a"));
        assert!(!fits("a […] b", "a b b c"));
    }
}
