//! A recording as an SVG that moves by CSS alone, so that it does where pictures may not run programs. A line is drawn once for each
//! way that it looked, and is visible for as long; the window over the lines follows the last one.

use std::fmt::Write as _;
use std::time::Duration;

use vt100::{Cell, Color};

use super::Recording;

/// Points of a character: every monospaced font is pressed into these.
const WIDE: f32 = 8.0;
const HIGH: f32 = 18.0;
const MARGIN: f32 = 14.0;
/// What is written within this is one picture.
const FRAME: Duration = Duration::from_millis(70);
/// The end stays for a while before it begins again.
const LAST: Duration = Duration::from_secs(6);
const GROUND: &str = "#16181d";
const TEXT: &str = "#d5d8df";
/// The terminal's eight colours, then the eight bright ones.
const COLOURS: [&str; 16] = [
    "#4b5160", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d5d8df",
    "#6b7280", "#ef8b93", "#b1d995", "#f0d399", "#82c3f7", "#d79be8", "#7dd0da", "#ffffff",
];

/// One way that a line looked, and when.
struct Look {
    line: u16,
    drawn: String,
    from: Duration,
    until: Option<Duration>,
}

/// The picture, of so many lines at once.
pub fn svg(recording: &Recording, window: u16, title: &str) -> String {
    let (looks, moves, end) = watch(recording, window);
    let total = end + LAST;
    let percent = |at: Duration| 100.0 * at.as_secs_f64() / total.as_secs_f64();
    let (width, height) = (
        WIDE.mul_add(f32::from(recording.columns), 2.0 * MARGIN),
        HIGH.mul_add(f32::from(window), 2.0 * MARGIN),
    );
    let (mut style, mut lines) = (String::new(), String::new());
    for (number, look) in looks.iter().enumerate() {
        let _ = write!(
            style,
            "#k{number}{{animation-name:k{number}}}@keyframes k{number}{{0%{{opacity:{}}}",
            u8::from(look.from.is_zero())
        );
        if !look.from.is_zero() {
            let _ = write!(style, "{:.2}%{{opacity:1}}", percent(look.from));
        }
        if let Some(until) = look.until {
            let _ = write!(style, "{:.2}%{{opacity:0}}", percent(until));
        }
        style.push_str("}\n");
        let hidden = if look.until.is_some() {
            " class=\"g\""
        } else {
            ""
        };
        let y = HIGH * f32::from(look.line);
        let _ = writeln!(
            lines,
            "<g id=\"k{number}\"{hidden} transform=\"translate(0 {y})\">{}</g>",
            look.drawn
        );
    }
    let mut window_moves = String::new();
    for (at, top) in &moves {
        let up = HIGH * f32::from(*top);
        let _ = write!(
            window_moves,
            "{:.2}%{{transform:translateY(-{up}px)}}",
            percent(*at)
        );
    }
    let last = HIGH * moves.last().map_or(0.0, |(_, top)| f32::from(*top));
    let seconds = total.as_secs_f64();
    let colours = COLOURS
        .iter()
        .enumerate()
        .fold(String::new(), |mut style, (number, colour)| {
            let _ = write!(style, ".c{number}{{fill:{colour}}}");
            style
        });
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n<style>\n\
         text{{font:13.3px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:{TEXT};white-space:pre}}\n\
         g[id],#w{{animation:0s {seconds:.2}s step-end infinite;animation-delay:0s;animation-duration:{seconds:.2}s}}\n\
         .g{{opacity:0}}.b{{font-weight:bold}}.d{{opacity:.6}}.i{{font-style:italic}}.u{{text-decoration:underline}}{colours}\n\
         #w{{animation-name:w;transform:translateY(-{last}px)}}@keyframes w{{{window_moves}}}\n{style}\
         @media (prefers-reduced-motion:reduce){{g[id],#w{{animation:none}}}}\n</style>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{GROUND}\"/>\n\
         <svg x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{}\" height=\"{}\" overflow=\"hidden\"><g id=\"w\">\n{lines}</g></svg>\n</svg>\n",
        escaped(title),
        width - 2.0 * MARGIN,
        height - 2.0 * MARGIN,
    )
}

/// Every look of every line, where the window's top is from when on, and when the last of it was drawn.
fn watch(recording: &Recording, window: u16) -> (Vec<Look>, Vec<(Duration, u16)>, Duration) {
    let mut terminal = vt100::Parser::new(recording.rows, recording.columns, 0);
    let (mut looks, mut moves): (Vec<Look>, Vec<(Duration, u16)>) =
        (Vec::new(), vec![(Duration::ZERO, 0)]);
    let mut now: Vec<Option<usize>> = vec![None; recording.rows.into()];
    let mut end = Duration::ZERO;
    let mut written = recording.written.iter().peekable();
    while let Some(first) = written.next() {
        terminal.process(&first.bytes);
        while let Some(more) = written.next_if(|more| more.at < first.at + FRAME) {
            terminal.process(&more.bytes);
        }
        end = first.at;
        let screen = terminal.screen();
        let mut filled = 0;
        for line in 0..recording.rows {
            let drawn = draw(&line_of(screen, line));
            if !drawn.is_empty() {
                filled = line + 1;
            }
            let place = &mut now[usize::from(line)];
            let before = place.map_or("", |look| looks[look].drawn.as_str());
            if before == drawn {
                continue;
            }
            if let Some(look) = place.take() {
                looks[look].until = Some(end);
            }
            if !drawn.is_empty() {
                *place = Some(looks.len());
                looks.push(Look {
                    line,
                    drawn,
                    from: end,
                    until: None,
                });
            }
        }
        let top = filled.saturating_sub(window);
        if moves.last().is_none_or(|(_, before)| *before < top) {
            moves.push((end, top));
        }
    }
    (looks, moves, end)
}

fn line_of(screen: &vt100::Screen, line: u16) -> Vec<Cell> {
    let (_, columns) = screen.size();
    (0..columns)
        .filter_map(|column| screen.cell(line, column).cloned())
        .collect()
}

/// A line as runs of characters that look alike; nothing for an empty one.
fn draw(cells: &[Cell]) -> String {
    let mut drawn = String::new();
    let mut column = 0;
    while column < cells.len() {
        let class = class(&cells[column]);
        let run: Vec<&Cell> = cells[column..]
            .iter()
            .take_while(|cell| self::class(cell) == class)
            .collect();
        let text: String = run
            .iter()
            .filter(|cell| !cell.is_wide_continuation())
            .map(|cell| {
                if cell.has_contents() {
                    cell.contents()
                } else {
                    " "
                }
            })
            .collect();
        let shown = text.trim_end();
        if !shown.trim().is_empty() {
            let before = shown.chars().take_while(|c| *c == ' ').count();
            let places = run.len() - (text.len() - shown.len()) - before;
            let class = if class.is_empty() {
                class
            } else {
                format!(" class=\"{}\"", class.trim())
            };
            let _ = write!(
                drawn,
                "<text x=\"{}\" y=\"13\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\"{class}>{}</text>",
                WIDE * (column + before) as f32,
                WIDE * places as f32,
                escaped(shown.trim_start())
            );
        }
        column += run.len();
    }
    drawn
}

/// The look of a character.
fn class(cell: &Cell) -> String {
    let mut class = String::new();
    for (is, name) in [
        (cell.bold(), " b"),
        (cell.dim(), " d"),
        (cell.italic(), " i"),
        (cell.underline(), " u"),
    ] {
        if is {
            class.push_str(name);
        }
    }
    if let Color::Idx(colour @ 0..16) = cell.fgcolor() {
        let _ = write!(class, " c{colour}");
    }
    class
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
