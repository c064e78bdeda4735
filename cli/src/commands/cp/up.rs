//! From this machine to a session.

use super::{AT_ONCE, Copied, FEW, SMALL, replace};
use crate::cluster::Cluster;
use crate::confirm;
use crate::failure::{Code, Failure};
use crate::gateway::{Gateway, Many};
use crate::print::Printer;
use crate::transfer::{self, Bundle, Existing, LocalFile, Meter};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So much is sent again when a connection is cut in the middle of a bundle.
const BUNDLE: u64 = 32 << 20;
/// And so many files at most.
const BUNDLE_FILES: usize = 1000;

/// A file and its path in the session.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    local: PathBuf,
    remote: String,
    bytes: u64,
}

pub(super) async fn copy(
    cluster: &Cluster,
    sources: &[&str],
    (name, destination): (&str, &str),
    existing: Existing,
    print: &Arc<Printer>,
) -> Result<Vec<Copied>, Failure> {
    let (items, left_out) = items(sources, destination)?;
    for path in left_out {
        print.note(&format!(
            "{} is a link or a device: left out",
            path.display()
        ));
    }
    if items.is_empty() {
        return Err(Failure::new(Code::NotFound, "there is no file to copy"));
    }
    let gateway = cluster.gateway(name).await?;
    let existing = agreed(&gateway, &items, existing, print).await?;
    let meter = Meter::new(
        print,
        &items
            .first()
            .map_or_else(String::new, |item| item.remote.clone()),
    );
    let mut sent = send_all(&gateway, items.clone(), existing, &meter).await;
    meter.clear();
    if let ([only], Err(failure)) = (items.as_slice(), &sent)
        && *failure == transfer::other(&only.remote)
        && print.can_ask()
        && confirm::yes(print, &format!("{}. Replace it?", failure.message), false).await?
    {
        sent = send_all(&gateway, items.clone(), Existing::Replace, &meter).await;
        meter.clear();
    }
    let copied = sent?.into_iter().map(|(item, bytes, sha256)| Copied {
        from: item.local.display().to_string(),
        to: format!("{name}:{}", item.remote),
        bytes,
        sha256,
    });
    Ok(copied.collect())
}

/// What is to be sent under which name, and what is left out.
fn items(sources: &[&str], destination: &str) -> Result<(Vec<Item>, Vec<PathBuf>), Failure> {
    let mut paths = Vec::new();
    for source in sources {
        paths.extend(transfer::matches(source)?);
    }
    let into = destination.is_empty() || destination.ends_with('/') || paths.len() > 1;
    let (mut items, mut left_out) = (Vec::new(), Vec::new());
    for path in paths {
        let about = std::fs::metadata(&path).map_err(|e| {
            let shown = path.display();
            Failure::new(Code::NotFound, format!("could not read {shown}: {e}"))
        })?;
        let remote = match into {
            true => join(destination, own_name(&path)?.as_str()),
            false => destination.to_owned(),
        };
        if about.is_dir() {
            let (files, others) = transfer::files_of(&path)?;
            left_out.extend(others);
            items.extend(
                files
                    .into_iter()
                    .map(|LocalFile { path, name, size }| Item {
                        local: path,
                        remote: join(&remote, &name),
                        bytes: size,
                    }),
            );
        } else if about.is_file() {
            transfer::safe(&remote).map_err(|_| {
                Failure::new(
                    Code::Usage,
                    format!("{remote:?} is no name for a file in a session"),
                )
                .hint("give the destination a plain name")
            })?;
            items.push(Item {
                local: path,
                remote,
                bytes: about.len(),
            });
        } else {
            left_out.push(path);
        }
    }
    let mut taken = HashMap::new();
    for item in &items {
        if let Some(other) = taken.insert(item.remote.clone(), &item.local) {
            return Err(Failure::new(
                Code::Usage,
                format!(
                    "{} and {} would both become {}",
                    other.display(),
                    item.local.display(),
                    item.remote
                ),
            ));
        }
    }
    Ok((items, left_out))
}

fn join(folder: &str, name: &str) -> String {
    match folder.trim_end_matches('/') {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The last name of a path, also of `.` and `folder/..`.
fn own_name(path: &Path) -> Result<String, Failure> {
    let whole = match path.file_name() {
        Some(_) => Ok(path.to_owned()),
        None => path.canonicalize(),
    };
    let name = whole
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!("{} has no file name to keep", path.display()),
        )
        .hint("give the destination a name: NAME:folder/")
    })
}

/// Whether what is there may be replaced. A single file is looked at when it is sent, which costs no list.
async fn agreed(
    gateway: &Gateway,
    items: &[Item],
    existing: Existing,
    print: &Printer,
) -> Result<Existing, Failure> {
    if existing == Existing::Replace || items.len() == 1 {
        return Ok(existing);
    }
    let list = gateway.list().await?;
    let there: HashMap<_, _> = list
        .files
        .iter()
        .map(|file| (file.name.as_str(), file))
        .collect();
    let mut taken = Vec::new();
    for item in items {
        let Some(file) = there.get(item.remote.as_str()) else {
            continue;
        };
        // The same content under the same name is what an earlier try has brought.
        let same = file.size == item.bytes
            && file.sha256.is_some()
            && transfer::sum_of(&item.local).await.ok() == file.sha256;
        if !same {
            taken.push(item.remote.clone());
        }
    }
    match taken.is_empty() {
        true => Ok(Existing::Replace),
        false => replace(&taken, print).await,
    }
}

async fn send_all(
    gateway: &Gateway,
    items: Vec<Item>,
    existing: Existing,
    meter: &Arc<Meter>,
) -> Result<Vec<(Item, u64, String)>, Failure> {
    let (small, mut alone): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|item| item.bytes <= SMALL);
    let mut sent = Vec::new();
    if small.len() < FEW {
        alone.extend(small);
    } else {
        let mut bundles = bundles(small).into_iter();
        while let Some(bundle) = bundles.next() {
            meter.label(&format!("{} small files", bundle.len()));
            match transfer::pack(gateway, &tar_of(&bundle), meter).await? {
                Many::Here(sums) => {
                    let done = bundle.into_iter().zip(sums);
                    sent.extend(done.map(|(item, (bytes, sum))| (item, bytes, sum)));
                }
                Many::NotHere => {
                    alone.extend(bundle);
                    alone.extend(bundles.by_ref().flatten());
                }
            }
        }
    }
    let singles = futures::stream::iter(alone).map(|item| async move {
        meter.label(&item.remote);
        let paths = (item.local.as_path(), item.remote.as_str());
        let (bytes, sum) = transfer::send(gateway, paths, existing, meter).await?;
        Ok::<_, Failure>((item, bytes, sum))
    });
    let singles: Vec<_> = singles.buffer_unordered(AT_ONCE).try_collect().await?;
    sent.extend(singles);
    sent.sort_by(|(a, ..), (b, ..)| a.remote.cmp(&b.remote));
    Ok(sent)
}

fn bundles(items: Vec<Item>) -> Vec<Vec<Item>> {
    let (mut bundles, mut bytes) = (vec![Vec::new()], 0);
    for item in items {
        let full =
            bundles.last().map_or(0, Vec::len) >= BUNDLE_FILES || bytes + item.bytes > BUNDLE;
        if full {
            bundles.push(Vec::new());
            bytes = 0;
        }
        bytes += item.bytes;
        if let Some(bundle) = bundles.last_mut() {
            bundle.push(item);
        }
    }
    bundles.retain(|bundle| !bundle.is_empty());
    bundles
}

fn tar_of(items: &[Item]) -> Bundle {
    Bundle {
        files: items
            .iter()
            .map(|item| (item.local.clone(), item.remote.clone()))
            .collect(),
        bytes: items.iter().map(|item| item.bytes).sum(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("docs/deep")).unwrap();
        for name in ["a.txt", "b.txt", "docs/a.txt", "docs/deep/c.txt"] {
            std::fs::write(folder.path().join(name), "1").unwrap();
        }
        folder
    }

    fn remotes(folder: &Path, sources: &[&str], destination: &str) -> Vec<String> {
        let sources: Vec<String> = sources
            .iter()
            .map(|source| folder.join(source).to_string_lossy().into_owned())
            .collect();
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        let (items, _) = items(&sources, destination).unwrap();
        items.into_iter().map(|item| item.remote).collect()
    }

    #[test]
    fn names_in_the_session_are_those_that_cp_would_give() {
        let folder = folder();
        let of = |sources: &[&str], destination| remotes(folder.path(), sources, destination);
        assert_eq!(of(&["a.txt"], ""), ["a.txt"]);
        assert_eq!(of(&["a.txt"], "b"), ["b"]);
        assert_eq!(of(&["a.txt"], "d/"), ["d/a.txt"]);
        assert_eq!(of(&["a.txt", "b.txt"], "d"), ["d/a.txt", "d/b.txt"]);
        assert_eq!(of(&["*.txt"], "d"), ["d/a.txt", "d/b.txt"]);
        assert_eq!(of(&["docs"], ""), ["docs/a.txt", "docs/deep/c.txt"]);
        assert_eq!(of(&["docs"], "x"), ["x/a.txt", "x/deep/c.txt"]);
        assert_eq!(of(&["docs"], "x/"), ["x/docs/a.txt", "x/docs/deep/c.txt"]);
        assert_eq!(of(&["docs/."], ""), ["docs/a.txt", "docs/deep/c.txt"]);
    }

    #[test]
    fn two_files_never_become_one() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (a, b) = (path("a.txt"), path("docs/a.txt"));
        assert_eq!(items(&[&a, &b], "").unwrap_err().code, Code::Usage);
        assert_eq!(items(&[&a], "../x").unwrap_err().code, Code::Usage);
    }

    #[test]
    fn bundles_stay_small_enough_to_be_sent_again() {
        let item = |bytes| Item {
            local: PathBuf::new(),
            remote: String::new(),
            bytes,
        };
        let sizes = |bundles: Vec<Vec<Item>>| bundles.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(bundles(vec![item(BUNDLE / 2); 5])), [2, 2, 1]);
        assert_eq!(sizes(bundles(vec![item(0); 2500])), [1000, 1000, 500]);
        assert!(bundles(Vec::new()).is_empty());
    }
}
