//! `cargo record`: the session at the top of the README, from a real run on the rig, as a picture that moves.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use srchat_tests::explain::causes;
use srchat_tests::process::without_the_callers_settings;
use srchat_tests::recording::{Recording, svg};
use srchat_tests::rig::{Options, Rig};
use srchat_tests::terminal::Terminal;

/// Tall enough for the whole session, so that no line of it moves; the picture shows so many at once.
const SIZE: (u16, u16) = (120, 100);
const WINDOW: u16 = 26;
/// Between two looks at what was written.
const LOOK: Duration = Duration::from_millis(25);
/// Between two keys, as a person types.
const KEY: Duration = Duration::from_millis(35);
/// No step of a session on this machine takes as long.
const STEP: Duration = Duration::from_secs(300);
const TITLE: &str =
    "srchat run: the plan and its price, a chat, and the proof that the pod is gone";
const QUESTION: &str = "Write a Rust function that adds two numbers, without a main, and say in one sentence what it does.";

/// Records a session of srchat on the rig: planned, confirmed, chatted with, ended, proved gone. Waits are shortened.
#[derive(clap::Parser)]
#[command(name = "cargo record", bin_name = "cargo record", version)]
struct Args {
    /// Where the picture goes
    #[arg(long, default_value = ".github/srchat.svg")]
    svg: PathBuf,
    /// Where an asciicast of the same goes; nowhere unless given
    #[arg(long)]
    cast: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Several libraries would each choose a provider of their own; who came first has nothing to fear.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match record(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn record(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let rig = Rig::start(Options::default()).await?;
    let recorded = session(&rig).await;
    let model = rig.model.id.clone();
    rig.stop().await;
    let (recording, text) = recorded?;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let picture = svg(&recording, WINDOW, TITLE);
    std::fs::write(repository.join(&args.svg), &picture)?;
    if let Some(cast) = &args.cast {
        std::fs::write(cast, recording.asciicast())?;
    }
    writeln!(io::stdout(), "{text}")?;
    writeln!(
        io::stderr(),
        "{}: {} bytes, of a session with {model}",
        args.svg.display(),
        picture.len()
    )?;
    Ok(())
}

/// The session, as it was recorded and as it stands in the end.
async fn session(rig: &Rig) -> io::Result<(Recording, String)> {
    let mut seat = Seat::take(rig)?;
    seat.until("$").await?;
    seat.types(&format!("srchat run {} --name qwen", rig.model.id))
        .await?;
    seat.until("[Y/n]").await?;
    seat.reads(Duration::from_secs(3));
    seat.types("y").await?;
    seat.until("/help lists the commands.").await?;
    seat.until_the_end_is("\n>").await?;
    seat.types(QUESTION).await?;
    seat.until_the_end_is("\n>").await?;
    seat.reads(Duration::from_secs(3));
    seat.types("/cost").await?;
    seat.until("This session has cost").await?;
    seat.until_the_end_is("\n>").await?;
    seat.types("/exit").await?;
    seat.until("End qwen?").await?;
    seat.types("y").await?;
    seat.until("qwen is gone.").await?;
    seat.until_the_end_is("\n$").await?;
    seat.types("kubectl get chat").await?;
    seat.until("No resources found").await?;
    seat.until_the_end_is("\n$").await?;
    Ok((seat.recording, seat.terminal.screen()))
}

/// Somebody at a shell, and the recorder that looks on.
struct Seat {
    terminal: Terminal,
    recording: Recording,
    began: Instant,
    taken: usize,
    _home: tempfile::TempDir,
}

impl Seat {
    fn take(rig: &Rig) -> io::Result<Self> {
        let home = tempfile::tempdir()?;
        let programs = [rig.binaries.cli.as_path(), rig.cluster().kubectl_program()];
        let folders =
            programs.map(|program| program.parent().unwrap_or(program).display().to_string());
        let rest = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        without_the_callers_settings(&mut shell);
        shell
            .args(["--norc", "--noprofile"])
            .env("PS1", "$ ")
            .env("PATH", format!("{}:{rest}", folders.join(":")))
            .env("KUBECONFIG", rig.cluster().kubeconfig())
            .env("HOME", home.path())
            .env("XDG_DATA_HOME", home.path())
            .current_dir(home.path());
        Ok(Self {
            terminal: Terminal::run(&shell, SIZE)?,
            recording: Recording::new(SIZE),
            began: Instant::now(),
            taken: 0,
            _home: home,
        })
    }

    fn look(&mut self) {
        let bytes = self.terminal.written_after(self.taken);
        self.taken += bytes.len();
        self.recording.take(self.began.elapsed(), bytes);
    }

    async fn types(&mut self, line: &str) -> io::Result<()> {
        for key in line.chars() {
            self.terminal.press(&key.to_string());
            tokio::time::sleep(KEY).await;
            self.look();
        }
        self.terminal.press("\r");
        Ok(())
    }

    fn reads(&mut self, time: Duration) {
        self.look();
        self.recording.linger(time);
    }

    async fn until(&mut self, text: &str) -> io::Result<()> {
        self.wait(text, |screen| screen.contains(text)).await
    }

    async fn until_the_end_is(&mut self, text: &str) -> io::Result<()> {
        self.wait(text, |screen| screen.ends_with(text)).await
    }

    async fn wait(&mut self, what: &str, is: impl Fn(&str) -> bool) -> io::Result<()> {
        let since = Instant::now();
        loop {
            // What was there before its answer was asked for is no answer.
            tokio::time::sleep(LOOK).await;
            self.look();
            let screen = self.terminal.screen();
            if is(&screen) {
                return Ok(());
            }
            if since.elapsed() > STEP {
                return Err(io::Error::other(format!(
                    "the session does not show {what:?}:\n{screen}"
                )));
            }
        }
    }
}
