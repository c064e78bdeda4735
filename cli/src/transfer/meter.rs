//! The line that shows how far a transfer is.

use crate::print::Printer;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A line that changes more often than this cannot be read, and costs the transfer more than it shows.
const REDRAW: Duration = Duration::from_millis(100);

/// Counts bytes of one transfer, or of many that are one to the person, and draws its line.
#[derive(Debug)]
pub struct Meter {
    print: Arc<Printer>,
    label: Mutex<String>,
    done: AtomicU64,
    total: AtomicU64,
    began: Instant,
    drawn: Mutex<Option<Instant>>,
}

impl Meter {
    /// A meter that has counted nothing yet.
    pub fn new(print: &Arc<Printer>, label: &str) -> Arc<Self> {
        Arc::new(Self {
            print: Arc::clone(print),
            label: Mutex::new(label.to_owned()),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            began: Instant::now(),
            drawn: Mutex::new(None),
        })
    }

    /// What is being moved now.
    pub fn label(&self, label: &str) {
        label.clone_into(&mut self.label.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// So many bytes more are to be moved.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes that were expected are expected another way.
    pub fn expect_less(&self, bytes: u64) {
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// So many bytes have been moved.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.draw();
    }

    /// So many bytes were counted and did not arrive.
    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.print.clear_progress();
    }

    fn draw(&self) {
        if !self.print.is_live() {
            return;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        *drawn = Some(Instant::now());
        let label = self.label.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, total) = (
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        );
        self.print
            .progress(&line(&label, done, total, self.began.elapsed()));
    }
}

fn line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let speed = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    if total == 0 || done > total {
        return format!("{label}  {}  {}/s", size(done), size(speed));
    }
    let left = ((total - done) as f64 / (speed.max(1)) as f64).ceil() as u64;
    format!(
        "{label}  {:3} %  {} of {}  {}/s  {left} s left",
        done * 100 / total,
        size(done),
        size(total),
        size(speed),
    )
}

/// Bytes in the largest unit that leaves a whole number: `9.8 MiB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 10_276_044, 16_750_372_454].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "9.8 MiB", "15.6 GiB"]);
    }

    #[test]
    fn the_line_says_how_much_of_what_at_which_speed() {
        let half = line("a", 1 << 20, 2 << 20, Duration::from_secs(1));
        assert_eq!(half, "a   50 %  1.0 MiB of 2.0 MiB  1.0 MiB/s  1 s left");
        assert_eq!(line("a", 0, 0, Duration::ZERO), "a  0 B  0 B/s");
    }
}
