//! Draws what benchmarks have measured: a file with one JSON object a line becomes one SVG.
//!
//!     cargo bench --bench figures -- lines --in FILE.jsonl --x KEY --y KEY[,KEY…] [--by KEY] [--log-x] [--log-y] …
//!     cargo bench --bench figures -- bars --in FILE.jsonl --name KEY --value KEY …
//!
//! Both take `--title`, `--x-label`, `--out FILE.svg` and `--where KEY=VALUE`, which leaves out lines that have another
//! value. `lines` draws one line for each key of `--y`, or one for each value that `--by` has. `bars` draws one bar
//! for each name: the median of its lines, and a whisker from the least to the most.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser};
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde_json::Value;

/// Okabe and Ito, 2008: apart for those who see few colours as well. Their yellow is too light for a line.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(70, 70, 70),
];
/// Of its own, so that a page in dark colours changes nothing.
const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";
const WIDTH_PX: u32 = 900;
const LINES_HEIGHT_PX: u32 = 420;
const BAR_HEIGHT_PX: u32 = 34;
/// Of an axis that ends at its greatest value, so that nothing touches the frame.
const HEADROOM: f64 = 1.08;

#[derive(Parser)]
enum Figure {
    Lines(Lines),
    Bars(Bars),
}

#[derive(Args)]
struct Common {
    #[arg(long = "in")]
    file: PathBuf,
    #[arg(long)]
    title: String,
    #[arg(long, default_value = "")]
    x_label: String,
    #[arg(long = "where", value_name = "KEY=VALUE")]
    only: Vec<String>,
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
struct Lines {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    x: String,
    #[arg(long, value_delimiter = ',')]
    y: Vec<String>,
    #[arg(long)]
    by: Option<String>,
    #[arg(long, default_value = "")]
    y_label: String,
    #[arg(long)]
    log_x: bool,
    #[arg(long)]
    log_y: bool,
}

#[derive(Args)]
struct Bars {
    #[command(flatten)]
    common: Common,
    #[arg(long)]
    name: String,
    #[arg(long)]
    value: String,
}

fn main() {
    // Cargo says so to every benchmark.
    let figure = Figure::parse_from(std::env::args().filter(|argument| argument != "--bench"));
    match figure {
        Figure::Lines(lines) => lines.draw(),
        Figure::Bars(bars) => bars.draw(),
    }
}

impl Common {
    fn read(&self) -> Vec<Value> {
        let file = self.file.display();
        let text = std::fs::read_to_string(&self.file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let objects = lines.map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{file}: {error}, in: {line}"))
        });
        let kept: Vec<Value> = objects
            .filter(|object: &Value| {
                self.only.iter().all(|condition| {
                    let (key, value) = condition.split_once('=').expect("a condition is KEY=VALUE");
                    named(object, key).as_deref() == Some(value)
                })
            })
            .collect();
        assert!(!kept.is_empty(), "{file}: nothing is left to draw");
        kept
    }
}

/// A value as people would write it, where the object has that key.
fn named(object: &Value, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

type Series = Vec<(String, Vec<(f64, f64)>)>;

impl Lines {
    fn draw(&self) {
        let series = self.series();
        let points = || series.iter().flat_map(|(_, points)| points);
        let x = Axis::around(points().map(|point| point.0), self.log_x, false);
        let y = Axis::around(points().map(|point| point.1), self.log_y, !self.log_y);
        let root = SVGBackend::new(&self.common.out, (WIDTH_PX, LINES_HEIGHT_PX)).into_drawing_area();
        root.fill(&PAPER).unwrap();
        // Beside the plot, where no line can run through it.
        let longest = series
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let legend_px = if series.len() > 1 {
            40 + 8 * longest as u32
        } else {
            0
        };
        let (plot, legend) = root.split_horizontally(WIDTH_PX - legend_px);
        let mut chart = ChartBuilder::on(&plot)
            .caption(&self.common.title, (FONT, 20).into_font().color(&INK))
            .margin(12)
            .margin_right(28)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(x, y)
            .unwrap();
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 14).into_font().color(&INK))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .x_desc(&self.common.x_label)
            .y_desc(&self.y_label)
            .draw()
            .unwrap();
        for ((_, points), colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))
                .unwrap();
            if points.len() <= 12 {
                let dots = points.iter().map(|&point| Circle::new(point, 3, colour.filled()));
                chart.draw_series(dots).unwrap();
            }
        }
        if series.len() == 1 {
            return root.present().unwrap();
        }
        for (place, ((name, _), colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let y = 56 + 22 * place as i32;
            let mark = PathElement::new(vec![(0, y), (18, y)], colour.stroke_width(2));
            legend.draw(&mark).unwrap();
            let text = Text::new(name.as_str(), (24, y - 7), (FONT, 14).into_font().color(&INK));
            legend.draw(&text).unwrap();
        }
        root.present().unwrap();
    }

    fn series(&self) -> Series {
        let mut series: Series = Vec::new();
        for object in self.common.read() {
            let x = object[self.x.as_str()].as_f64();
            for key in &self.y {
                // What has no such figure has no point there.
                let Some(point) = x.zip(object[key.as_str()].as_f64()) else {
                    continue;
                };
                let name = match &self.by {
                    None => key.replace('_', " "),
                    Some(by) => {
                        let group = named(&object, by).unwrap_or_default();
                        if self.y.len() > 1 {
                            format!("{group}, {}", key.replace('_', " "))
                        } else {
                            group
                        }
                    }
                };
                match series.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, points)) => points.push(point),
                    None => series.push((name, vec![point])),
                }
            }
        }
        for (_, points) in &mut series {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        assert!(
            !series.is_empty(),
            "no line has {} and one of {:?}",
            self.x,
            self.y
        );
        series
    }
}

impl Bars {
    fn draw(&self) {
        let bars = self.bars();
        let count = bars.len();
        let most = bars
            .iter()
            .flat_map(|(_, values)| values)
            .copied()
            .fold(0.0, f64::max);
        let height = 110 + BAR_HEIGHT_PX * count as u32;
        let longest = bars
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0) as u32;
        let root = SVGBackend::new(&self.common.out, (WIDTH_PX, height)).into_drawing_area();
        root.fill(&PAPER).unwrap();
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.common.title, (FONT, 20).into_font().color(&INK))
            .margin(12)
            .margin_right(28)
            .x_label_area_size(46)
            .y_label_area_size(24 + longest * 7)
            // Room for the figure behind the longest bar.
            .build_cartesian_2d(0.0..most * 1.2, (0..count - 1).into_segmented())
            .unwrap();
        let name_of = |segment: &SegmentValue<usize>| match segment {
            SegmentValue::CenterOf(index) | SegmentValue::Exact(index) => {
                // The first one is on top.
                count
                    .checked_sub(index + 1)
                    .map_or_else(String::new, |index| bars[index].0.clone())
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .y_labels(count)
            .label_style((FONT, 14).into_font().color(&INK))
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&name_of)
            .x_desc(&self.common.x_label)
            .draw()
            .unwrap();
        for (index, (_, values)) in bars.iter().enumerate() {
            let (middle, least, most) = (values[values.len() / 2], values[0], values[values.len() - 1]);
            let place = count - 1 - index;
            let mut bar = Rectangle::new(
                [
                    (0.0, SegmentValue::Exact(place)),
                    (
                        middle,
                        match place + 1 {
                            after if after < count => SegmentValue::Exact(after),
                            _ => SegmentValue::Last,
                        },
                    ),
                ],
                COLOURS[0].filled(),
            );
            bar.set_margin(6, 6, 0, 0);
            chart.draw_series([bar]).unwrap();
            let centre = || SegmentValue::CenterOf(place);
            let whisker = PathElement::new(vec![(least, centre()), (most, centre())], INK.stroke_width(2));
            chart.draw_series([whisker]).unwrap();
            let text = EmptyElement::at((most, centre()))
                + Text::new(short(middle), (8, -7), (FONT, 14).into_font().color(&INK));
            chart.draw_series([text]).unwrap();
        }
        root.present().unwrap();
    }

    /// Names as they come, each with its values from the least to the most.
    fn bars(&self) -> Vec<(String, Vec<f64>)> {
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let mut bars: Vec<(String, Vec<f64>)> = Vec::new();
        for object in self.common.read() {
            let (Some(name), Some(value)) =
                (named(&object, &self.name), object[self.value.as_str()].as_f64())
            else {
                continue;
            };
            let place = *places.entry(name.clone()).or_insert_with(|| {
                bars.push((name, Vec::new()));
                bars.len() - 1
            });
            bars[place].1.push(value);
        }
        assert!(
            bars.len() > 1,
            "there is nothing to compare by {} and {}",
            self.name,
            self.value
        );
        for (_, values) in &mut bars {
            values.sort_by(f64::total_cmp);
        }
        bars
    }
}

/// An axis of either kind: what is drawn differs by it alone.
enum Axis {
    Linear(RangedCoordf64),
    Log(LogCoord<f64>),
}

impl Axis {
    fn around(values: impl Iterator<Item = f64>, log: bool, from_zero: bool) -> Self {
        let (least, most) = values.fold((f64::MAX, f64::MIN), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        if log {
            assert!(least > 0.0, "a logarithmic axis has no place for {least}");
            return Axis::Log((least / HEADROOM..most * HEADROOM).log_scale().into());
        }
        let range = match (from_zero, least < most) {
            (true, _) if most > 0.0 => least.min(0.0)..most * HEADROOM,
            (false, true) => least..most,
            _ => least - 1.0..most + 1.0,
        };
        Axis::Linear(range.into())
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        match self {
            Axis::Linear(axis) => axis.map(value, limit),
            Axis::Log(axis) => axis.map(value, limit),
        }
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match self {
            Axis::Linear(axis) => axis.key_points(hint),
            Axis::Log(axis) => log_key_points(&axis.range()),
        }
    }

    fn range(&self) -> Range<f64> {
        match self {
            Axis::Linear(axis) => axis.range(),
            Axis::Log(axis) => axis.range(),
        }
    }
}

/// Powers of ten, and 2 and 5 times those where there are few.
fn log_key_points(range: &Range<f64>) -> Vec<f64> {
    let (from, to) = (
        range.start.log10().floor() as i32,
        range.end.log10().ceil() as i32,
    );
    let mantissas: &[f64] = if to - from > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let points =
        (from..=to).flat_map(|power| mantissas.iter().map(move |mantissa| mantissa * 10f64.powi(power)));
    points.filter(|point| range.contains(point)).collect()
}

/// With at most three digits that say something, and a letter for thousands and millions.
fn short(value: f64) -> String {
    let (scaled, letter) = match value.abs() {
        1e9.. => (value / 1e9, " G"),
        1e6.. => (value / 1e6, " M"),
        1e4.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{letter}")
}
