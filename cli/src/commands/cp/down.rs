//! From a session to this machine.

use super::{AT_ONCE, Copied, FEW, SMALL, replace};
use crate::cluster::Cluster;
use crate::commands::files::chosen;
use crate::confirm;
use crate::failure::{Code, Failure};
use crate::gateway::{Gateway, Listed, Many};
use crate::place::is_pattern;
use crate::print::Printer;
use crate::transfer::{self, Destination, Existing, Meter, Target, Unpacked};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// A file and its path below the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    remote: String,
    local: String,
    bytes: u64,
}

pub(super) async fn copy(
    cluster: &Cluster,
    sources: &[(String, String)],
    destination: &Path,
    existing: Existing,
    print: &Arc<Printer>,
) -> Result<Vec<Copied>, Failure> {
    let mut copied = Vec::new();
    let several = sources.len() > 1;
    for (name, path) in sources {
        let gateway = cluster.gateway(name).await?;
        let folder = path.is_empty() || path.ends_with('/') || is_pattern(path);
        let single = match (folder, several) {
            (false, false) => one(&gateway, (name, path), destination, existing, print).await?,
            (true, _) | (false, true) => None,
        };
        match single {
            Some(file) => copied.push(file),
            None => {
                let files = below(&gateway, (name, path), destination, existing, print).await?;
                copied.extend(files);
            }
        }
    }
    Ok(copied)
}

/// One file by its name; `None` when it is a folder's.
async fn one(
    gateway: &Gateway,
    (name, path): (&str, &str),
    destination: &Path,
    existing: Existing,
    print: &Arc<Printer>,
) -> Result<Option<Copied>, Failure> {
    let (target, mut existing) = (Target::of(destination, path)?, existing);
    if let (Existing::Refuse, Err(failure)) = (existing, target.free()) {
        let question = format!("{}. Replace it?", failure.message);
        if !print.can_ask() || !confirm::yes(print, &question, false).await? {
            return Err(failure);
        }
        existing = Existing::Replace;
    }
    let meter = Meter::new(print, path);
    let fetched = transfer::fetch(gateway, path, (&target, existing), &meter).await;
    meter.clear();
    match fetched {
        Ok((bytes, sha256)) => Ok(Some(Copied {
            from: format!("{name}:{path}"),
            to: target.shown(),
            bytes,
            sha256,
        })),
        Err(failure) if failure.code == Code::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A folder, or what a pattern matches, below a folder of this machine.
async fn below(
    gateway: &Gateway,
    (name, path): (&str, &str),
    destination: &Path,
    existing: Existing,
    print: &Arc<Printer>,
) -> Result<Vec<Copied>, Failure> {
    let list = gateway.list().await?;
    let files = match path {
        "" => list.files.clone(),
        path => chosen(&list, name, path)?,
    };
    let items = items(&files, path, destination.is_dir())?;
    let place = Arc::new(Destination::open(destination)?);
    let taken: Vec<String> = items
        .iter()
        .filter(|item| existing == Existing::Refuse && place.has(&item.local))
        .map(|item| place.shown(&item.local).display().to_string())
        .collect();
    let existing = match taken.is_empty() {
        true => existing,
        false => replace(&taken, print).await?,
    };
    let meter = Meter::new(print, path);
    let fetched = fetch_all(gateway, (items, path), (&place, existing), &meter).await;
    meter.clear();
    let copied = fetched?.into_iter().map(|(local, file)| Copied {
        from: format!("{name}:{}", file.name),
        to: place.shown(&local).display().to_string(),
        bytes: file.bytes,
        sha256: file.sha256,
    });
    Ok(copied.collect())
}

/// Local names: a folder keeps its own name where the destination exists, as with `cp -r`; of a pattern, what comes before the
/// first sign of it is left out. Names come from the other side, so each is judged.
fn items(files: &[Listed], path: &str, exists: bool) -> Result<Vec<Item>, Failure> {
    let strip = match (is_pattern(path), exists) {
        (true, _) => {
            let literal = path.find(['*', '?', '[']).unwrap_or(path.len());
            path[..literal].rfind('/').map_or(0, |slash| slash + 1)
        }
        (false, true) => path
            .trim_end_matches('/')
            .rfind('/')
            .map_or(0, |slash| slash + 1),
        (false, false) if path.is_empty() => 0,
        (false, false) => path.trim_end_matches('/').len() + 1,
    };
    files
        .iter()
        .map(|file| {
            // A single file that was named has nothing left without its folder.
            let local = match file.name.get(strip..) {
                Some(rest) if !rest.is_empty() => rest,
                Some(_) | None => file.name.rsplit('/').next().unwrap_or(&file.name),
            };
            Ok(Item {
                local: transfer::safe(local)?.to_owned(),
                remote: file.name.clone(),
                bytes: file.size,
            })
        })
        .collect()
}

async fn fetch_all(
    gateway: &Gateway,
    (items, path): (Vec<Item>, &str),
    (place, existing): (&Arc<Destination>, Existing),
    meter: &Arc<Meter>,
) -> Result<Vec<(String, Unpacked)>, Failure> {
    let small = items.len() >= FEW && items.iter().all(|item| item.bytes <= SMALL);
    let mut fetched = Vec::new();
    if small {
        meter.label(&format!("{} small files", items.len()));
        fetched = together(gateway, (&items, path), (place, existing), meter).await?;
    }
    // What has arrived stays; the rest comes one by one, which can be resumed.
    let arrived: HashSet<&str> = fetched.iter().map(|(local, _)| local.as_str()).collect();
    let missing: Vec<&Item> = items
        .iter()
        .filter(|item| !arrived.contains(item.local.as_str()))
        .collect();
    let singles = futures::stream::iter(missing).map(|item| async move {
        meter.label(&item.remote);
        let target = (&**place, item.local.as_str());
        let (bytes, sha256) =
            transfer::into(gateway, &item.remote, target, existing, meter).await?;
        let file = Unpacked {
            name: item.remote.clone(),
            bytes,
            sha256,
        };
        Ok::<_, Failure>((item.local.clone(), file))
    });
    let singles: Vec<_> = singles.buffer_unordered(AT_ONCE).try_collect().await?;
    fetched.extend(singles);
    fetched.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fetched)
}

/// By one tar; what of it did not arrive is left to be fetched another way.
async fn together(
    gateway: &Gateway,
    (items, path): (&[Item], &str),
    (place, existing): (&Arc<Destination>, Existing),
    meter: &Arc<Meter>,
) -> Result<Vec<(String, Unpacked)>, Failure> {
    let folder = path.trim_end_matches('/');
    let under = Some(folder).filter(|folder| !folder.is_empty() && !is_pattern(folder));
    let Many::Here(answer) = gateway.download_tar(under).await? else {
        return Ok(Vec::new());
    };
    let expected: u64 = items.iter().map(|item| item.bytes).sum();
    meter.expect(expected);
    let wanted = items
        .iter()
        .map(|item| (item.remote.clone(), item.local.clone()));
    let (files, outcome) =
        transfer::unpack(answer, (place, existing), wanted.collect(), meter).await;
    match outcome {
        Err(failure) if !failure.passing => Err(failure),
        Ok(()) | Err(_) => {
            let arrived: u64 = files.iter().map(|file| file.bytes).sum();
            meter.expect_less(expected.saturating_sub(arrived));
            Ok(named(items, files))
        }
    }
}

fn named(items: &[Item], files: Vec<Unpacked>) -> Vec<(String, Unpacked)> {
    let local = |remote: &str| {
        let item = items.iter().find(|item| item.remote == remote);
        item.map(|item| item.local.clone())
    };
    files
        .into_iter()
        .filter_map(|file| Some((local(&file.name)?, file)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn locals(names: &[&str], path: &str, exists: bool) -> Vec<String> {
        let files: Vec<Listed> = names
            .iter()
            .map(|name| Listed {
                name: (*name).to_owned(),
                size: 1,
                modified: "2026-11-23T12:00:00Z".parse().unwrap(),
                sha256: None,
            })
            .collect();
        let items = items(&files, path, exists).unwrap();
        items.into_iter().map(|item| item.local).collect()
    }

    #[test]
    fn names_on_this_machine_are_those_that_cp_would_give() {
        let files = ["d/a", "d/e/b"];
        assert_eq!(locals(&files, "d", true), ["d/a", "d/e/b"]);
        assert_eq!(locals(&files, "d/", false), ["a", "e/b"]);
        assert_eq!(locals(&files, "", true), ["d/a", "d/e/b"]);
        assert_eq!(locals(&["d/e/b"], "d/e", true), ["e/b"]);
        assert_eq!(locals(&["d/a"], "d/*", true), ["a"]);
        assert_eq!(locals(&files, "**/*", true), ["d/a", "d/e/b"]);
        assert_eq!(locals(&["d/a"], "d/a", false), ["a"]);
    }

    #[test]
    fn a_hostile_name_is_refused_before_anything_is_written() {
        let hostile = Listed {
            name: "../../.ssh/authorized_keys".into(),
            size: 1,
            modified: "2026-11-23T12:00:00Z".parse().unwrap(),
            sha256: None,
        };
        let failure = items(&[hostile], "", true).unwrap_err();
        assert_eq!(failure.code, Code::Transfer);
    }
}
