//! `srchat files`: what lies in a session, and removing it.

use crate::args::{self, Output};
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::gateway::{List, Listed};
use crate::place::{Place, is_pattern, place};
use crate::print::Printer;
use crate::transfer::size;
use glob::{MatchOptions, Pattern};

/// A `*` stays within its folder, as in a shell, and a dot is a letter: names here are few and nobody hides them.
const AS_IN_A_SHELL: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// Lists or removes.
pub async fn files(
    cluster: &Cluster,
    args: args::Files,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    match args {
        args::Files::Ls { place } => ls(cluster, place, output, print).await,
        args::Files::Rm { paths } => rm(cluster, &paths, output, print).await,
    }
}

async fn ls(
    cluster: &Cluster,
    text: Option<String>,
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let (name, path) = match text.as_deref().map(place) {
        Some(Place::Session { name, path }) => (name, path),
        Some(Place::Local(_)) | None => (cluster.named_or_only(text).await?, String::new()),
    };
    let mut list = cluster.gateway(&name).await?.list().await?;
    if !path.is_empty() {
        list.files = chosen(&list, &name, &path)?;
    }
    if output == Output::Json {
        return print.json(&list);
    }
    for file in &list.files {
        let sum = file.sha256.as_deref().unwrap_or("-");
        print.line(&format!(
            "{:>10}  {}  {:.12}  {}",
            size(file.size),
            file.modified.strftime("%Y-%m-%d %H:%M"),
            sum,
            file.name
        ))?;
    }
    print.note(&format!(
        "{} files, {} of {} used",
        list.files.len(),
        size(list.used),
        size(list.quota)
    ));
    Ok(())
}

async fn rm(
    cluster: &Cluster,
    paths: &[String],
    output: Output,
    print: &Printer,
) -> Result<(), Failure> {
    let mut removed = Vec::new();
    for text in paths {
        let Place::Session { name, path } = place(text) else {
            return Err(
                Failure::new(Code::Usage, format!("{text} is not a file of a session"))
                    .hint("a file of a session is written NAME:path"),
            );
        };
        if path.is_empty() {
            return Err(
                Failure::new(Code::Usage, format!("{text} names no file")).hint(format!(
                    "all files are '{name}:*' and the folders '{name}:*/'"
                )),
            );
        }
        let gateway = cluster.gateway(&name).await?;
        let files = chosen(&gateway.list().await?, &name, &path)?;
        for file in files {
            gateway.remove(&file.name).await?;
            print.note(&format!("{name}:{} is removed", file.name));
            removed.push(file);
        }
    }
    match output {
        Output::Json => print.json(&removed),
        Output::Text => Ok(()),
    }
}

/// The files that a path means: one of this name, all below a folder, or those that a pattern matches.
pub fn chosen(list: &List, session: &str, path: &str) -> Result<Vec<Listed>, Failure> {
    let found: Vec<Listed> = if is_pattern(path) {
        let pattern = Pattern::new(path.trim_end_matches('/'))
            .map_err(|e| Failure::new(Code::Usage, format!("{path:?} is no pattern: {}", e.msg)))?;
        let folder = path.ends_with('/');
        let fits = |file: &&Listed| match folder {
            false => pattern.matches_with(&file.name, AS_IN_A_SHELL),
            true => folders(&file.name).any(|folder| pattern.matches_with(folder, AS_IN_A_SHELL)),
        };
        list.files.iter().filter(fits).cloned().collect()
    } else {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let fits = |file: &&Listed| file.name == path || file.name.starts_with(&folder);
        list.files.iter().filter(fits).cloned().collect()
    };
    if found.is_empty() {
        return Err(no_such_file(list, session, path));
    }
    Ok(found)
}

/// The folders that a path goes through, outermost first.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Names the near one.
pub fn no_such_file(list: &List, session: &str, path: &str) -> Failure {
    let failure = Failure::new(
        Code::NotFound,
        format!("there is no file {path} in session {session}"),
    );
    let names: Vec<String> = list.files.iter().map(|file| file.name.clone()).collect();
    match crate::cluster::near(path, &names) {
        Some(other) => failure.hint(format!("did you mean {session}:{other}?")),
        None => failure.hint(format!("`srchat files ls {session}` lists what there is")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list() -> List {
        let file = |name: &str| Listed {
            name: name.into(),
            size: 1,
            modified: "2026-11-23T12:00:00Z".parse().unwrap(),
            sha256: None,
        };
        List {
            files: ["a.txt", "b.csv", "d/a.txt", "d/e/b.txt"]
                .map(file)
                .to_vec(),
            used: 4,
            quota: 100,
        }
    }

    fn names(path: &str) -> Vec<String> {
        let found = chosen(&list(), "qwen", path).unwrap();
        found.into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn a_path_means_a_file_or_all_below_a_folder() {
        assert_eq!(names("a.txt"), ["a.txt"]);
        assert_eq!(names("d"), ["d/a.txt", "d/e/b.txt"]);
        assert_eq!(names("d/"), ["d/a.txt", "d/e/b.txt"]);
    }

    #[test]
    fn a_star_stays_in_its_folder() {
        assert_eq!(names("*.txt"), ["a.txt"]);
        assert_eq!(names("d/*"), ["d/a.txt"]);
        assert_eq!(names("**/*.txt"), ["a.txt", "d/a.txt", "d/e/b.txt"]);
        assert_eq!(names("?.csv"), ["b.csv"]);
        assert_eq!(names("*/"), ["d/a.txt", "d/e/b.txt"]);
    }

    #[test]
    fn what_is_not_there_names_the_near_one() {
        let failure = chosen(&list(), "qwen", "a.tx").unwrap_err();
        assert_eq!(failure.code, Code::NotFound);
        assert_eq!(failure.hint.unwrap(), "did you mean qwen:a.txt?");
    }
}
