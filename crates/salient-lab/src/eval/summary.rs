//! Results put together: means with intervals, as rows, CSV and charts.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::record::{Key, ModelId, Outcome, StageShare};
use super::{DENSE, Placement, Settings, Task};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::plot::{Axis, Chart, Point, Series};
use crate::stats::{self, Estimate, RESAMPLES};

/// An evaluation's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The version of the command.
    pub version: &'static str,
    /// The model.
    pub model: ModelId,
    /// The device that it ran on.
    pub device: String,
    /// The type of its weights and hidden states.
    pub dtype: &'static str,
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured.
    pub settings: Settings,
    /// By task, length and placement; the dense run first, then the best.
    pub rows: Vec<Row>,
}

/// The figures of a scorer and a schedule on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The task.
    pub task: Task,
    /// Tokens of the whole prompt, where the task leaves a choice.
    pub length: Option<usize>,
    /// Where the question stands, where there is one.
    pub question: Option<Placement>,
    /// The scorer; [`DENSE`] for the dense run.
    pub scorer: String,
    /// The schedule.
    pub schedule: String,
    /// Items.
    pub items: usize,
    /// Mean tokens that are prefilled.
    pub prompt_tokens: f64,
    /// The mean share of tokens alive over the layers.
    pub work: f64,
    /// The mean share of tokens alive in the last layer.
    pub final_keep: f64,
    /// The mean share of the dense prefill's operations that are saved, without those of scoring.
    pub flops_saved: f64,
    /// The mean share of the dense run's bytes of keys and values that the prefill leaves.
    pub kv_kept: f64,
    /// Seconds of the dense prefill over those of this one, the median over items.
    pub speedup: f64,
    /// The share of right answers.
    pub accuracy: Option<Estimate>,
    /// The same by the needle's depth.
    pub by_depth: Vec<DepthAccuracy>,
    /// Negative log-likelihood per token, in nats.
    pub nll: Option<Estimate>,
    /// By how much that exceeds the dense run's on the same items.
    pub delta_nll: Option<Estimate>,
    /// KL(dense || pruned) per token, in nats.
    pub kl: Option<Estimate>,
    /// The share of the tokens that matter alive after the last stage.
    pub survival: Option<Estimate>,
    /// The same after every stage, means alone.
    pub stages: Vec<StageShare>,
}

/// The share of right answers at a depth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DepthAccuracy {
    /// The needle's depth in percent.
    pub depth: f64,
    /// The share.
    pub accuracy: Estimate,
}

impl Row {
    /// Whether two rows are of the same items.
    pub fn same_items(&self, other: &Self) -> bool {
        (self.task, self.length, self.question) == (other.task, other.length, other.question)
    }

    /// By task, length and placement; dense first, then from the best to the worst.
    pub fn order(&self, other: &Self) -> Ordering {
        let group = |row: &Self| (row.task, row.length, row.question, row.scorer != DENSE);
        let badness = |row: &Self| {
            let better = |estimate: Option<Estimate>| estimate.map_or(0.0, |e| -e.mean);
            [better(row.accuracy), row.kl.map_or(0.0, |kl| kl.mean), better(row.survival)]
        };
        let ours = badness(self).into_iter().zip(badness(other));
        let by_figures = ours.map(|(a, b)| a.total_cmp(&b)).find(|order| order.is_ne());
        let name = |row: &Self| (row.scorer.clone(), row.schedule.clone());
        group(self)
            .cmp(&group(other))
            .then(by_figures.unwrap_or(Ordering::Equal))
            .then_with(|| name(self).cmp(&name(other)))
    }
}

/// A figure's name, and where in a row it stands.
type Measure = (&'static str, fn(&Row) -> Option<Estimate>);

/// The figures that a row may have.
pub const MEASURES: [Measure; 5] = [
    ("accuracy", |row| row.accuracy),
    ("nll", |row| row.nll),
    ("delta_nll", |row| row.delta_nll),
    ("kl", |row| row.kl),
    ("survival", |row| row.survival),
];

/// One row per task, length, placement, scorer and schedule. Intervals are Wilson's for accuracy,
/// else bootstrapped over items; those of `delta_nll` are paired.
///
/// # Errors
/// When a pruned result has no dense one to be compared with.
pub fn rows<'a>(results: impl IntoIterator<Item = (Key, &'a Outcome)>) -> Result<Vec<Row>> {
    let mut groups: Vec<Vec<(Key, &Outcome)>> = Vec::new();
    for (key, outcome) in results {
        match groups.iter_mut().find(|group| same_run(&group[0].0, &key)) {
            Some(group) => group.push((key, outcome)),
            None => groups.push(vec![(key, outcome)]),
        }
    }
    let rows: Result<Vec<Row>> = groups
        .iter()
        .map(|group| {
            let dense = groups.iter().find(|other| {
                let (ours, theirs) = (&group[0].0, &other[0].0);
                is_dense(theirs) && same_items(ours, theirs)
            });
            row(group, dense.map_or(&[], Vec::as_slice))
        })
        .collect();
    let mut rows = rows?;
    rows.sort_by(Row::order);
    Ok(rows)
}

/// The rows as CSV (RFC 4180), figures that a row lacks left empty.
pub fn csv(rows: &[Row]) -> String {
    let mut header: Vec<String> = [
        "task",
        "length",
        "question",
        "scorer",
        "schedule",
        "items",
        "prompt_tokens",
        "work",
        "final_keep",
        "flops_saved",
        "kv_kept",
        "speedup",
    ]
    .map(str::to_owned)
    .into();
    for (name, _) in MEASURES {
        header.extend([name.to_owned(), format!("{name}_low"), format!("{name}_high")]);
    }
    let mut text = line(&header);
    for row in rows {
        let mut cells = vec![
            row.task.to_string(),
            row.length.map(|length| length.to_string()).unwrap_or_default(),
            row.question.map(|question| question.to_string()).unwrap_or_default(),
            row.scorer.clone(),
            row.schedule.clone(),
            row.items.to_string(),
            row.prompt_tokens.to_string(),
            row.work.to_string(),
            row.final_keep.to_string(),
            row.flops_saved.to_string(),
            row.kv_kept.to_string(),
            row.speedup.to_string(),
        ];
        for (_, of) in MEASURES {
            match of(row) {
                Some(estimate) => cells.extend(
                    [estimate.mean, estimate.low, estimate.high].map(|value| value.to_string()),
                ),
                None => cells.extend([const { String::new() }; 3]),
            }
        }
        text += &line(&cells);
    }
    text
}

/// The charts of all tasks, each with the name of its file.
pub fn charts(rows: &[Row]) -> Vec<(String, Chart, Vec<Series>)> {
    let mut charts = Vec::new();
    for group in rows.chunk_by(Row::same_items) {
        let Row { task, length, question, .. } = group[0];
        let mut name = task.to_string();
        let mut title = task.to_string();
        if let Some(length) = length {
            name += &format!("-{length}");
            title += &format!(", {length} tokens");
        }
        if let Some(question) = question.filter(|question| *question != Placement::Last) {
            name += &format!("-question-{question}");
            title += &format!(", question {question}");
        }
        let mut against_work = |measure: &str, y_label: &str, of: fn(&Row) -> Option<Estimate>| {
            let series = series_by_work(group, of);
            if series.is_empty() {
                return;
            }
            let dense = group.iter().find(|row| row.scorer == DENSE).and_then(of);
            let dense = dense.map(|dense| format!("; dense {:.3}", dense.mean));
            let chart = Chart {
                title: title.clone() + &dense.unwrap_or_default(),
                x_label: "work: mean share of tokens alive (scorers side by side)".into(),
                y_label: y_label.into(),
                x_axis: Axis::Linear,
                y_axis: Axis::Linear,
            };
            charts.push((format!("{name}-{measure}.svg"), chart, series));
        };
        against_work("accuracy", "share of right answers", |row| row.accuracy);
        against_work("kl", "KL(dense || pruned), nats per token", |row| row.kl);
        against_work("delta-nll", "NLL above dense, nats per token", |row| row.delta_nll);
        for (schedule, series) in survival_by_stage(group) {
            let chart = Chart {
                title: format!("{title}, schedule {schedule}"),
                x_label: "layer".into(),
                y_label: "share of the tokens that matter still alive".into(),
                x_axis: Axis::Linear,
                y_axis: Axis::Linear,
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
            let schedule = schedule.replace(|c| !plain(c), "-");
            charts.push((format!("{name}-survival-{schedule}.svg"), chart, series));
        }
    }
    charts
}

fn is_dense(key: &Key) -> bool {
    key.scorer == DENSE
}

fn same_items(a: &Key, b: &Key) -> bool {
    (a.task, a.length, a.question) == (b.task, b.length, b.question)
}

fn same_run(a: &Key, b: &Key) -> bool {
    same_items(a, b) && (&a.scorer, &a.schedule) == (&b.scorer, &b.schedule)
}

fn row(results: &[(Key, &Outcome)], dense: &[(Key, &Outcome)]) -> Result<Row> {
    let key = &results[0].0;
    let values = |of: &dyn Fn(&Outcome) -> Option<f64>| -> Vec<f64> {
        results.iter().filter_map(|(_, outcome)| of(outcome)).collect()
    };
    let estimate = |values: Vec<f64>| match values.is_empty() {
        true => Ok(None),
        false => stats::bootstrap(&values, RESAMPLES, SEED).map(Some),
    };
    let answered: Vec<bool> = results.iter().filter_map(|(_, outcome)| outcome.right).collect();
    let mut stages: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for stage in results.iter().flat_map(|(_, outcome)| &outcome.survival) {
        stages.entry(stage.layer).or_default().push(stage.share);
    }
    let stages: Result<_> = stages
        .into_iter()
        .map(|(layer, shares)| Ok(StageShare { layer, share: stats::mean(&shares)? }))
        .collect();
    let pruned = !is_dense(key);
    Ok(Row {
        task: key.task,
        length: key.length,
        question: key.question,
        scorer: key.scorer.clone(),
        schedule: key.schedule.clone(),
        items: results.len(),
        prompt_tokens: stats::mean(&values(&|o| Some(o.prompt_tokens as f64)))?,
        work: stats::mean(&values(&|o| Some(o.work)))?,
        final_keep: stats::mean(&values(&|o| Some(o.final_keep)))?,
        flops_saved: stats::mean(&values(&|o| Some(o.flops_saved)))?,
        kv_kept: stats::mean(&values(&|o| Some(o.kv_kept)))?,
        speedup: stats::median(&values(&|o| Some(o.speedup)))?,
        accuracy: match answered.is_empty() {
            true => None,
            false => Some(share(&answered)?),
        },
        by_depth: by_depth(results)?,
        nll: estimate(values(&|o| o.nll))?,
        delta_nll: if pruned { delta_nll(results, dense)? } else { None },
        kl: if pruned { estimate(values(&|o| o.kl))? } else { None },
        survival: estimate(values(&|o| o.survival.last().map(|stage| stage.share)))?,
        stages: stages?,
    })
}

fn share(answered: &[bool]) -> Result<Estimate> {
    stats::proportion(answered.iter().filter(|right| **right).count(), answered.len())
}

fn by_depth(results: &[(Key, &Outcome)]) -> Result<Vec<DepthAccuracy>> {
    let mut depths: Vec<(f64, Vec<bool>)> = Vec::new();
    for (key, outcome) in results {
        let (Some(depth), Some(right)) = (key.depth, outcome.right) else { continue };
        match depths.iter_mut().find(|(known, _)| *known == depth) {
            Some((_, answered)) => answered.push(right),
            None => depths.push((depth, vec![right])),
        }
    }
    depths.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at = |(depth, answered): (f64, Vec<bool>)| {
        Ok(DepthAccuracy { depth, accuracy: share(&answered)? })
    };
    depths.into_iter().map(at).collect()
}

/// The same resamples for every row, so that rows can be compared.
const SEED: u64 = 0;

fn delta_nll(pruned: &[(Key, &Outcome)], dense: &[(Key, &Outcome)]) -> Result<Option<Estimate>> {
    let item = |key: &Key| (key.index, key.depth.map(f64::to_bits));
    let dense: HashMap<_, f64> =
        dense.iter().filter_map(|(key, outcome)| Some((item(key), outcome.nll?))).collect();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (key, outcome) in pruned {
        let Some(nll) = outcome.nll else { continue };
        let Some(&other) = dense.get(&item(key)) else {
            let (task, index) = (key.task, key.index);
            return Err(Error::Invalid(format!("item {index} of {task} has no dense result")));
        };
        left.push(nll);
        right.push(other);
    }
    if left.is_empty() {
        return Ok(None);
    }
    stats::paired_bootstrap(&left, &right, RESAMPLES, SEED).map(Some)
}

/// A line per scorer over its schedules. Where scorers share their schedules their points would
/// hide each other, so each scorer stands a little beside the next.
fn series_by_work(rows: &[Row], of: fn(&Row) -> Option<Estimate>) -> Vec<Series> {
    let rows = || rows.iter().filter(|row| row.scorer != DENSE);
    let extremes = |(least, most): (f64, f64), row: &Row| (least.min(row.work), most.max(row.work));
    let (least, most) = rows().fold((1.0, 0.0), extremes);
    let step = (most - least).max(0.05) / 120.0;
    let mut series: BTreeMap<&str, Vec<Point>> = BTreeMap::new();
    for row in rows() {
        if let Some(Estimate { mean, low, high, .. }) = of(row) {
            let point = Point { x: row.work, y: mean, interval: Some((low, high)) };
            series.entry(&row.scorer).or_default().push(point);
        }
    }
    let middle = (series.len() as f64 - 1.0) / 2.0;
    let line = |(index, (name, mut points)): (usize, (&str, Vec<Point>))| {
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        let aside = (index as f64 - middle) * step;
        points.iter_mut().for_each(|point| point.x += aside);
        Series { name: name.to_owned(), points }
    };
    series.into_iter().enumerate().map(line).collect()
}

/// For every schedule a line per scorer over the stages' layers, from the whole at layer 0.
fn survival_by_stage(rows: &[Row]) -> Vec<(&str, Vec<Series>)> {
    let mut charts: Vec<(&str, Vec<Series>)> = Vec::new();
    for row in rows.iter().filter(|row| !row.stages.is_empty()) {
        let point = |x: usize, y| Point { x: x as f64, y, interval: None };
        let stages = row.stages.iter().map(|stage| point(stage.layer, stage.share));
        let points = std::iter::once(point(0, 1.0)).chain(stages).collect();
        let series = Series { name: row.scorer.clone(), points };
        match charts.iter_mut().find(|(schedule, _)| *schedule == row.schedule) {
            Some((_, all)) => all.push(series),
            None => charts.push((&row.schedule, vec![series])),
        }
    }
    // By name, so that a scorer has the same colour in every chart.
    charts.iter_mut().for_each(|(_, all)| all.sort_by(|a, b| a.name.cmp(&b.name)));
    charts
}

fn line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| escape(cell)).collect();
    format!("{}\r\n", cells.join(","))
}

fn escape(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::samples::{key, outcome};
    use super::*;

    fn squad(scorer: &str, index: usize, nll: f64, kl: f64) -> (Key, Outcome) {
        let schedule = if scorer == DENSE { DENSE } else { "late" };
        let outcome = Outcome { nll: Some(nll), kl: Some(kl), ..outcome() };
        (key(Task::Squad, scorer, schedule, index), outcome)
    }

    fn needle(scorer: &str, index: usize, right: bool, shares: [f64; 2]) -> (Key, Outcome) {
        let schedule = if scorer == DENSE { DENSE } else { "late" };
        let stage = |(layer, share)| StageShare { layer, share };
        let survival = match scorer {
            DENSE => vec![],
            _ => [14, 16].into_iter().zip(shares).map(stage).collect(),
        };
        let outcome = Outcome { right: Some(right), survival, ..outcome() };
        (key(Task::Needle, scorer, schedule, index), outcome)
    }

    fn made_up() -> Vec<(Key, Outcome)> {
        vec![
            squad("random", 0, 3.0, 1.0),
            squad("random", 1, 6.0, 2.0),
            squad("best", 1, 5.5, 0.25),
            squad("best", 0, 1.5, 0.25),
            squad(DENSE, 0, 1.0, 0.0),
            squad(DENSE, 1, 5.0, 0.0),
            needle(DENSE, 0, true, [1.0; 2]),
            needle(DENSE, 1, true, [1.0; 2]),
            needle("random", 0, true, [1.0, 0.5]),
            needle("random", 1, false, [0.5, 0.0]),
            needle("best", 0, true, [1.0, 1.0]),
            needle("best", 1, true, [1.0, 0.5]),
        ]
    }

    fn summarised(results: &[(Key, Outcome)]) -> Vec<Row> {
        rows(results.iter().map(|(key, outcome)| (key.clone(), outcome))).unwrap()
    }

    #[test]
    fn rows_hold_the_figures_of_their_items_and_the_best_come_first() {
        let rows = summarised(&made_up());
        let names: Vec<_> = rows.iter().map(|row| (row.task, row.scorer.as_str())).collect();
        let (needle, squad) = (Task::Needle, Task::Squad);
        let expected = [(needle, DENSE), (needle, "best"), (needle, "random")];
        assert_eq!(names[..3], expected);
        assert_eq!(names[3..], [(squad, DENSE), (squad, "best"), (squad, "random")]);

        let random = &rows[2];
        let accuracy = random.accuracy.unwrap();
        assert_eq!((accuracy.mean, accuracy.count), (0.5, 2));
        assert_eq!(random.survival.unwrap().mean, 0.25);
        let stages = [(14, 0.75), (16, 0.25)].map(|(layer, share)| StageShare { layer, share });
        assert_eq!(random.stages, stages);
        assert!(random.kl.is_none() && random.nll.is_none());

        // Items 0 and 1 lose 0.5 each, in whatever order they come: a difference without spread.
        let delta = rows[4].delta_nll.unwrap();
        assert_eq!((delta.mean, delta.low, delta.high), (0.5, 0.5, 0.5));
        assert_eq!(rows[5].delta_nll.unwrap().mean, 1.5);
        assert_eq!(rows[5].kl.unwrap().mean, 1.5);
        assert!(rows[3].delta_nll.is_none() && rows[3].kl.is_none());
        assert_eq!(rows[3].nll.unwrap().mean, 3.0);
    }

    #[test]
    fn accuracy_is_also_told_by_depth() {
        let deep = |(key, outcome)| (Key { depth: Some(9.0), ..key }, outcome);
        let results = [
            needle(DENSE, 0, true, [1.0; 2]),
            deep(needle(DENSE, 1, true, [1.0; 2])),
            needle(DENSE, 2, false, [1.0; 2]),
        ];
        let rows = summarised(&results);
        let depths =
            rows[0].by_depth.iter().map(|at| (at.depth, at.accuracy.mean, at.accuracy.count));
        assert_eq!(depths.collect::<Vec<_>>(), [(9.0, 1.0, 1), (33.3, 0.5, 2)]);
        assert!(summarised(&made_up()[..6]).iter().all(|row| row.by_depth.is_empty()));
    }

    /// A slow run of one item does not count for more than that it was slow.
    #[test]
    fn speedups_are_medians_and_other_costs_are_means() {
        let mut results = made_up();
        let mut third = needle("best", 2, true, [1.0, 1.0]);
        third.1 = Outcome { speedup: 0.01, kv_kept: 0.34, flops_saved: 0.9, ..third.1 };
        results.extend([needle(DENSE, 2, true, [1.0; 2]), third]);
        let rows = summarised(&results);
        let best = rows.iter().find(|row| row.scorer == "best").unwrap();
        assert_eq!(best.speedup, 1.5);
        assert!((best.kv_kept - 0.54).abs() < 1e-9 && (best.flops_saved - 0.5).abs() < 1e-9);
    }

    #[test]
    fn rows_of_other_placements_have_their_own_dense_run_and_charts() {
        let later = |(key, outcome)| (Key { question: Some(Placement::Later), ..key }, outcome);
        let mut results = made_up();
        results.push(later(squad("best", 0, 9.0, 4.0)));
        let missing = rows(results.iter().map(|(key, outcome)| (key.clone(), outcome)));
        assert!(matches!(missing, Err(Error::Invalid(_))));
        results.push(later(squad(DENSE, 0, 8.0, 0.0)));
        let rows = summarised(&results);
        let row = rows.iter().find(|r| r.scorer == "best" && r.question == Some(Placement::Later));
        assert_eq!(row.unwrap().delta_nll.unwrap().mean, 1.0);
        let charts = charts(&rows);
        let chart = charts.iter().find(|(name, ..)| name == "squad-1024-question-later-kl.svg");
        assert_eq!(chart.unwrap().1.title, "squad, 1024 tokens, question later");
    }

    #[test]
    fn nothing_is_compared_with_a_dense_run_that_is_not_there() {
        let results = [squad("best", 0, 1.0, 0.5), squad(DENSE, 1, 1.0, 0.0)];
        let rows = rows(results.iter().map(|(key, outcome)| (key.clone(), outcome)));
        assert!(matches!(rows, Err(Error::Invalid(_))));
    }

    #[test]
    fn csv_cells_that_need_quotes_get_them() {
        assert_eq!(escape("plain:0.5"), "plain:0.5");
        assert_eq!(escape("12=0.5,20=0.2"), "\"12=0.5,20=0.2\"");
        assert_eq!(escape("a \"b\"\nc"), "\"a \"\"b\"\"\nc\"");
        let mut rows = summarised(&made_up());
        rows[1].schedule = "12=0.5,20=0.2".into();
        let text = csv(&rows);
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 1 + rows.len());
        let columns = lines[0].split(',').count();
        assert_eq!(columns, 12 + 3 * MEASURES.len());
        assert_eq!(lines[3].split(',').count(), columns);
        assert!(lines[2].starts_with(
            "needle,1024,last,best,\"12=0.5,20=0.2\",2,1000,0.65,0.12,0.3,0.64,1.5,1,"
        ));
        // Neither a loss nor a divergence is known of a needle.
        assert!(lines[3].contains(",,,,,,,,,"));
    }

    #[test]
    fn every_task_has_its_charts_and_every_point_stands_near_its_work() {
        let charts = charts(&summarised(&made_up()));
        let names: Vec<_> = charts.iter().map(|(name, ..)| name.as_str()).collect();
        let squad = ["squad-1024-kl.svg", "squad-1024-delta-nll.svg"];
        assert_eq!(names[..2], ["needle-1024-accuracy.svg", "needle-1024-survival-late.svg"]);
        assert_eq!(names[2..], squad);
        let (_, chart, accuracy) = &charts[0];
        assert_eq!(chart.title, "needle, 1024 tokens; dense 1.000");
        let scorers = |series: &[Series]| series.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        for (_, _, series) in &charts {
            assert_eq!(scorers(series), ["best", "random"]);
        }
        for point in accuracy.iter().flat_map(|series| &series.points) {
            assert!((point.x - 0.65).abs() < 0.002, "{point:?}");
        }
        let (_, _, survival) = &charts[1];
        let points: Vec<_> = survival[1].points.iter().map(|point| (point.x, point.y)).collect();
        assert_eq!(points, [(0.0, 1.0), (14.0, 0.75), (16.0, 0.25)]);
        for (_, chart, series) in &charts {
            crate::plot::svg(chart, series).unwrap();
        }
    }
}
