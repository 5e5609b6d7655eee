//! The command line.

/// Without the list of parts, which follows.
pub const USAGE: &str = "usage: bench [--only PART,...] [--rounds N] [--quick] [--json FILE]

--only PART,...  these parts; all without it
--rounds N       so many measurements of what is fast, where 200 are the default
--quick          as few as can be, which says that it works and nothing else
--json FILE      the tables as JSON too; - is standard output
";

/// What was asked for.
#[derive(Default)]
pub struct Options {
    /// Only the text above.
    pub help: bool,
    /// Where the JSON goes.
    pub json: Option<String>,
    /// As few measurements as can be.
    pub quick: bool,
    only: Vec<String>,
    rounds: Option<usize>,
}

impl Options {
    /// From the words behind the program's name.
    pub fn parse(words: impl Iterator<Item = String>, parts: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .ok_or_else(|| format!("read {word}: it wants a value; see --help"))
            };
            match word.as_str() {
                "--help" => options.help = true,
                "--quick" => options.quick = true,
                "--json" => options.json = Some(value()?),
                "--only" => {
                    let value = value()?;
                    let wanted = value.split(',').filter(|part| !part.is_empty());
                    options.only.extend(wanted.map(String::from));
                }
                "--rounds" => {
                    let value = value()?;
                    let number = value.parse().ok().filter(|number| *number > 0);
                    let complaint =
                        || format!("read --rounds {value}: not a number greater than 0");
                    options.rounds = Some(number.ok_or_else(complaint)?);
                }
                _ => return Err(format!("read {word}: unknown option; see --help")),
            }
        }
        let unknown = options
            .only
            .iter()
            .find(|one| !parts.contains(&one.as_str()));
        match unknown {
            Some(part) => Err(format!(
                "read --only {part}: no such part; there are {}",
                parts.join(", ")
            )),
            None => Ok(options),
        }
    }

    /// Whether a part is to be measured.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|one| one == part)
    }

    /// So many measurements where `usual` is the default out of 200.
    pub fn rounds(&self, usual: usize) -> usize {
        match (self.quick, self.rounds) {
            (true, _) => 2,
            (_, Some(rounds)) => (usual * rounds).div_ceil(200),
            _ => usual,
        }
    }
}
