//! `srchat completions` and `srchat man`: what is made from the command line's own description. No cluster is needed.

use crate::args::{self, Arguments};
use crate::failure::{Code, Failure};
use crate::print::Printer;
use clap::CommandFactory as _;

/// Prints the script that a shell sources.
pub fn completions(args: &args::Completions, print: &Printer) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "srchat", &mut script);
    print.raw(&String::from_utf8_lossy(&script))
}

/// Writes `srchat.1` and a page for each verb.
pub fn man(args: &args::Man) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), &args.folder));
    written.map_err(|e| {
        let folder = args.folder.display();
        Failure::new(
            Code::Error,
            format!("could not write man pages to {folder}: {e}"),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_man_page() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("man");
        man(&args::Man {
            folder: place.clone(),
        })
        .unwrap();
        for verb in Arguments::command().get_subcommands() {
            if !verb.is_hide_set() {
                let page = place.join(format!("srchat-{}.1", verb.get_name()));
                assert!(page.is_file(), "{}", page.display());
            }
        }
    }
}
