//! What the line editor searches with Ctrl-R and the arrows: what was said at this prompt, and, once they have been
//! read in the background, in earlier conversations. There is no second file: what is removed from the history is
//! gone from here as well.

use super::History;
use reedline::{
    CommandLineSearch, HistoryItem, HistoryItemId, HistorySessionId, ReedlineError,
    ReedlineErrorVariants, Result, SearchDirection, SearchQuery,
};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// What was said at this prompt comes after everything that was said before.
const HERE: i64 = 1 << 32;
/// As many as anybody looks for; a prompt that is older is found by `srchat history search`.
const MOST: usize = 10_000;

/// The prompts of now and before.
#[derive(Default)]
pub struct Prompts {
    earlier: Arc<OnceLock<Vec<String>>>,
    here: Vec<String>,
}

impl Prompts {
    /// Begins to read the earlier ones, from the history in this folder, on a thread of its own.
    pub fn with_earlier(folder: PathBuf) -> Self {
        let earlier = Arc::new(OnceLock::new());
        let slot = Arc::clone(&earlier);
        std::thread::spawn(move || {
            // A history that cannot be read is told elsewhere; the arrows then have less to show.
            let found = History::existing(&folder)
                .ok()
                .flatten()
                .map(|history| said(&history));
            let _ = slot.set(found.unwrap_or_default());
        });
        Self {
            earlier,
            here: Vec::new(),
        }
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = (i64, &String)> {
        let earlier = self.earlier.get().map(Vec::as_slice).unwrap_or_default();
        let before = earlier
            .iter()
            .enumerate()
            .map(|(at, text)| (at as i64, text));
        let here = self.here.iter().enumerate();
        before.chain(here.map(|(at, text)| (HERE + at as i64, text)))
    }
}

/// Everything that was said, oldest first; of equal ones the latest.
fn said(history: &History) -> Vec<String> {
    let (mut seen, mut prompts) = (HashSet::new(), Vec::new());
    let stories = history.stories().into_iter().flatten().rev();
    for story in stories.filter_map(|(_, story)| story.ok()) {
        for text in story.turns.into_iter().rev().filter_map(|turn| turn.said) {
            if seen.insert(text.clone()) {
                prompts.push(text);
            }
        }
        if prompts.len() >= MOST {
            break;
        }
    }
    prompts.reverse();
    prompts
}

fn item(id: i64, text: &str) -> HistoryItem {
    HistoryItem {
        id: Some(HistoryItemId::new(id)),
        ..HistoryItem::from_command_line(text)
    }
}

fn unsupported<T>(feature: &'static str) -> Result<T> {
    let history = "srchat";
    Err(ReedlineError(
        ReedlineErrorVariants::HistoryFeatureUnsupported { history, feature },
    ))
}

impl reedline::History for Prompts {
    fn save(&mut self, new: HistoryItem) -> Result<HistoryItem> {
        let text = new.command_line;
        if self.here.last() != Some(&text) {
            self.here.push(text.clone());
        }
        Ok(item(HERE + self.here.len() as i64 - 1, &text))
    }

    fn load(&self, id: HistoryItemId) -> Result<HistoryItem> {
        let found = self.all().find(|(at, _)| *at == id.0);
        found.map_or_else(
            || {
                Err(ReedlineError(ReedlineErrorVariants::OtherHistoryError(
                    "there is no such prompt",
                )))
            },
            |(at, text)| Ok(item(at, text)),
        )
    }

    fn count(&self, query: SearchQuery) -> Result<i64> {
        Ok(self.search(query)?.len() as i64)
    }

    fn search(&self, query: SearchQuery) -> Result<Vec<HistoryItem>> {
        let backward = query.direction == SearchDirection::Backward;
        let (after, before) = match backward {
            true => (query.end_id, query.start_id),
            false => (query.start_id, query.end_id),
        };
        let matches = |text: &str| match &query.filter.command_line {
            Some(CommandLineSearch::Prefix(sought)) => text.starts_with(sought),
            Some(CommandLineSearch::Substring(sought)) => text.contains(sought),
            Some(CommandLineSearch::Exact(sought)) => text == sought,
            None => true,
        };
        let wanted = |(id, text): &(i64, &String)| {
            after.is_none_or(|after| *id > after.0)
                && before.is_none_or(|before| *id < before.0)
                && matches(text)
        };
        let limit = query
            .limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX);
        let found = |(id, text): (i64, &String)| item(id, text);
        Ok(match backward {
            true => self
                .all()
                .rev()
                .filter(wanted)
                .take(limit)
                .map(found)
                .collect(),
            false => self.all().filter(wanted).take(limit).map(found).collect(),
        })
    }

    fn update(&mut self, _: HistoryItemId, _: &dyn Fn(HistoryItem) -> HistoryItem) -> Result<()> {
        unsupported("changing what was said")
    }

    fn clear(&mut self) -> Result<()> {
        self.here.clear();
        Ok(())
    }

    fn delete(&mut self, _: HistoryItemId) -> Result<()> {
        unsupported("removing one prompt")
    }

    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn session(&self) -> Option<HistorySessionId> {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use reedline::{History as _, SearchFilter};

    fn prompts(earlier: &[&str], here: &[&str]) -> Prompts {
        let mut prompts = Prompts::default();
        let texts = earlier.iter().map(|text| (*text).to_owned()).collect();
        prompts.earlier.set(texts).unwrap();
        for text in here {
            prompts.save(HistoryItem::from_command_line(*text)).unwrap();
        }
        prompts
    }

    fn texts(found: Vec<HistoryItem>) -> Vec<String> {
        found.into_iter().map(|item| item.command_line).collect()
    }

    #[test]
    fn what_was_said_here_comes_before_what_was_said_earlier() {
        let prompts = prompts(&["a cat", "a dog"], &["a hen", "a hen"]);
        let all = prompts.search(SearchQuery::everything(SearchDirection::Backward, None));
        assert_eq!(texts(all.unwrap()), ["a hen", "a dog", "a cat"]);
        let with_o = prompts.search(SearchQuery::all_that_contain_rev("o".into()));
        assert_eq!(texts(with_o.unwrap()), ["a dog"]);
    }

    #[test]
    fn walking_back_and_forth_passes_each_prompt_once() {
        let prompts = prompts(&["1", "2"], &["3"]);
        let step = |from: Option<HistoryItemId>, direction| {
            let mut found = prompts.search(SearchQuery {
                direction,
                start_time: None,
                end_time: None,
                start_id: from,
                end_id: None,
                limit: Some(1),
                filter: SearchFilter::anything(None),
            });
            found.as_mut().unwrap().pop()
        };
        let (mut at, mut walked) = (None, String::new());
        while let Some(item) = step(at, SearchDirection::Backward) {
            (at, walked) = (item.id, walked + &item.command_line);
        }
        while let Some(item) = step(at, SearchDirection::Forward) {
            (at, walked) = (item.id, walked + &item.command_line);
        }
        assert_eq!(walked, "32123");
    }
}
