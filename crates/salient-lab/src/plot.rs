//! Line charts with intervals, as SVG that any browser shows.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};
use crate::output;

/// A chart of several lines over the same axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// How the horizontal axis runs.
    pub x_axis: Axis,
    /// How the vertical axis runs.
    pub y_axis: Axis,
}

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Axis {
    /// By difference.
    #[default]
    Linear,
    /// By ratio; values must be positive.
    Log,
}

/// A line of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// From left to right; a single point is drawn as one.
    pub points: Vec<Point>,
}

/// A value, and where it may truly lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Along the horizontal axis.
    pub x: f64,
    /// Along the vertical axis.
    pub y: f64,
    /// The ends of the interval around `y`.
    pub interval: Option<(f64, f64)>,
}

/// Draws a chart and writes it whole to `path`.
///
/// # Errors
/// As [`svg`], and when the file cannot be written.
pub fn line_chart(path: impl AsRef<Path>, chart: &Chart, series: &[Series]) -> Result<()> {
    output::write_whole(path, svg(chart, series)?)
}

/// Draws a chart.
///
/// # Errors
/// When there is no point, a coordinate is not finite, or not positive on a logarithmic axis.
pub fn svg(chart: &Chart, series: &[Series]) -> Result<String> {
    let points = || series.iter().flat_map(|series| &series.points);
    let ys = |point: &Point| {
        let (low, high) = point.interval.unwrap_or((point.y, point.y));
        [point.y, low, high]
    };
    let x = extent("x", chart.x_axis, points().map(|point| point.x))?;
    let y = extent("y", chart.y_axis, points().flat_map(ys))?;
    let mut xs: Vec<_> = points().map(|point| point.x).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let log_x = || x.clone().log_scale().with_key_points(round_values(&x, &xs));
    let log_y = || y.clone().log_scale().with_key_points(round_values(&y, &[]));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = match (chart.x_axis, chart.y_axis) {
            (Axis::Linear, Axis::Linear) => draw(&area, chart, series, x, y),
            (Axis::Log, Axis::Linear) => draw(&area, chart, series, log_x(), y),
            (Axis::Linear, Axis::Log) => draw(&area, chart, series, x, log_y()),
            (Axis::Log, Axis::Log) => draw(&area, chart, series, log_x(), log_y()),
        };
        drawn.and_then(|()| area.present()).map_err(|e| Error::Invalid(e.to_string()))?;
    }
    Ok(svg)
}

const SIZE: (u32, u32) = (960, 520);
const LEGEND_WIDTH: u32 = 200;

/// Okabe and Ito's colours, which colour-blind people tell apart (2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a, X, Y>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    chart: &Chart,
    series: &[Series],
    x: X,
    y: Y,
) -> Drawn<'a>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    area.fill(&WHITE)?;
    let named = series.iter().any(|series| !series.name.is_empty());
    let width = if named { SIZE.0 - LEGEND_WIDTH } else { SIZE.0 };
    let (plot, legend) = area.split_horizontally(width);
    let mut context = ChartBuilder::on(&plot)
        .caption(&chart.title, ("sans-serif", 24))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(74)
        .build_cartesian_2d(x, y)?;
    context
        .configure_mesh()
        .x_desc(&chart.x_label)
        .y_desc(&chart.y_label)
        .axis_desc_style(("sans-serif", 18))
        .label_style(("sans-serif", 16))
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, series) in series.iter().enumerate() {
        let (colour, mark) = look(index);
        let line = series.points.iter().map(|point| (point.x, point.y));
        context.draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?;
        context.draw_series(series.points.iter().filter_map(|point| {
            let (low, high) = point.interval?;
            let style = colour.stroke_width(1);
            Some(ErrorBar::new_vertical(point.x, low, point.y, high, style, 8))
        }))?;
        context.draw_series(line.map(|at| Circle::new(at, 4, mark)))?;
    }
    if named { draw_legend(&legend, series) } else { Ok(()) }
}

/// The names, beside the chart, where they can hide no point.
fn draw_legend<'a>(area: &DrawingArea<SVGBackend<'a>, Shift>, series: &[Series]) -> Drawn<'a> {
    let left = Pos::new(HPos::Left, VPos::Center);
    let font = ("sans-serif", 16).into_font().color(&BLACK).pos(left);
    for (index, series) in series.iter().enumerate() {
        let (colour, mark) = look(index);
        let y = 60 + 24 * index as i32;
        area.draw(&PathElement::new([(4, y), (30, y)], colour.stroke_width(2)))?;
        area.draw(&Circle::new((17, y), 4, mark))?;
        area.draw(&Text::new(series.name.as_str(), (38, y), font.clone()))?;
    }
    Ok(())
}

/// The colour and mark of a series; after the colours the marks change.
fn look(index: usize) -> (RGBColor, ShapeStyle) {
    let colour = COLOURS[index % COLOURS.len()];
    let hollow = index / COLOURS.len() % 2 == 1;
    (colour, if hollow { colour.stroke_width(2) } else { colour.filled() })
}

/// The range of an axis: all values and a little room.
fn extent(name: &str, axis: Axis, values: impl Iterator<Item = f64>) -> Result<Range<f64>> {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        if !value.is_finite() {
            return Err(Error::Invalid(format!("a chart cannot show {name} = {value}")));
        }
        if axis == Axis::Log && value <= 0.0 {
            let problem = format!("a logarithmic {name} axis cannot show {value}");
            return Err(Error::Invalid(problem));
        }
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return Err(Error::Invalid("a chart needs at least one point".into()));
    }
    Ok(match axis {
        Axis::Log => {
            let room = (high / low).powf(0.04).max(1.05);
            low / room..high * room
        }
        Axis::Linear => {
            let room = if low == high { low.abs().max(1.0) * 0.1 } else { (high - low) * 0.06 };
            // An axis of shares or times that comes near zero starts there.
            let from = if low >= 0.0 && low <= 0.3 * high { 0.0 } else { low - room };
            from..high + room
        }
    })
}

/// Ticks of a logarithmic axis: the values themselves if they are few, else 1, 2 and 5 times the
/// powers of ten.
fn round_values(range: &Range<f64>, values: &[f64]) -> Vec<f64> {
    if (2..=10).contains(&values.len()) {
        return values.to_vec();
    }
    let exponents = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let ticks = exponents.flat_map(|e| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(e)));
    ticks.filter(|tick| range.contains(tick)).collect()
}

/// A tick's label without the noise of binary fractions.
fn short(value: &f64) -> String {
    if value.abs() >= 1e6 || (*value != 0.0 && value.abs() < 1e-4) {
        return format!("{value:.1e}");
    }
    let digits = format!("{value:.6}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if digits == "-0" { "0".into() } else { digits.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(x_axis: Axis, y_axis: Axis) -> Chart {
        Chart {
            title: "Needles <found> & lost".into(),
            x_label: "prompt tokens".into(),
            y_label: "share right".into(),
            x_axis,
            y_axis,
        }
    }

    fn series() -> Vec<Series> {
        let point = |k: u32| {
            let (x, y) = (f64::from(1 << k), 1.0 / f64::from(k));
            Point { x, y, interval: (k > 9).then_some((0.9 * y, 1.2 * y)) }
        };
        let names = ["dense", "last query", "random"];
        names.map(|name| Series { name: name.into(), points: (8..14).map(point).collect() }).into()
    }

    #[test]
    fn every_line_point_and_word_is_drawn() {
        for (x, y) in [
            (Axis::Linear, Axis::Linear),
            (Axis::Log, Axis::Linear),
            (Axis::Linear, Axis::Log),
            (Axis::Log, Axis::Log),
        ] {
            let svg = svg(&chart(x, y), &series()).unwrap();
            for words in ["dense", "last query", "random", "prompt tokens", "share right"] {
                assert!(svg.contains(words), "{words}");
            }
            assert!(svg.contains("Needles &lt;found&gt; &amp; lost"));
            assert!(svg.trim_end().ends_with("</svg>"));
            // Six points, four with intervals, whose centres are marked too, and the legend.
            assert_eq!(svg.matches("<circle").count(), 3 * (6 + 4 + 1));
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
    }

    #[test]
    fn single_points_and_flat_lines_are_drawn() {
        let points = vec![Point { x: 0.0, y: 0.0, interval: None }];
        let series = [Series { name: String::new(), points }];
        assert!(svg(&chart(Axis::Linear, Axis::Linear), &series).unwrap().contains("<circle"));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let with =
            |x, y| [Series { name: "s".into(), points: vec![Point { x, y, interval: None }] }];
        let linear = chart(Axis::Linear, Axis::Linear);
        let log = chart(Axis::Log, Axis::Log);
        assert!(matches!(svg(&linear, &[]), Err(Error::Invalid(_))));
        assert!(matches!(svg(&linear, &with(f64::NAN, 1.0)), Err(Error::Invalid(_))));
        assert!(matches!(svg(&log, &with(1.0, 0.0)), Err(Error::Invalid(_))));
        assert!(matches!(svg(&log, &with(-1.0, 1.0)), Err(Error::Invalid(_))));
    }

    #[test]
    fn logarithmic_ticks_are_the_values_or_round() {
        assert_eq!(round_values(&(0.9..9.0), &[1.0, 8.0]), [1.0, 8.0]);
        assert_eq!(round_values(&(0.9..60.0), &[1.0]), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
    }

    #[test]
    fn labels_are_short() {
        let labels = [0.1 + 0.2, 4096.0, -0.0, 1e-7, 0.05].map(|value| short(&value));
        assert_eq!(labels, ["0.3", "4096", "0", "1.0e-7", "0.05"]);
    }

    #[test]
    fn the_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chart.svg");
        line_chart(&path, &chart(Axis::Log, Axis::Linear), &series()).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("<svg"));
    }
}
