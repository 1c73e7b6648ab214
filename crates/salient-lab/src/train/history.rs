//! What every step of a run did, one line of JSON each.

use std::fs;
use std::path::PathBuf;

use super::{Evaluation, Phase, Progress};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::output;
use crate::plot::{Axis, Chart, Point, Series};

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The phase.
    pub phase: Phase,
    /// Its steps so far, this one included.
    pub step: usize,
    /// The loss, averaged over the batch.
    pub loss: f64,
    /// The rate it went by.
    pub rate: f64,
    /// In the second phase, the share of tokens that the mask left behind every stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alive: Vec<f64>,
    /// On the held-out texts, where this step was followed by an evaluation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<StageMetrics>,
}

/// Rank metrics of a stage, averaged over texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StageMetrics {
    /// The block on whose entry the stage stands.
    pub layer: usize,
    /// See [`RankMetrics`](super::RankMetrics).
    pub pair_accuracy: f64,
    /// Kendall's tau-b.
    pub kendall_tau: f64,
    /// The share of the best tokens that are kept.
    pub overlap: f64,
}

impl StageMetrics {
    /// Those of every stage.
    pub fn of(evaluation: &Evaluation) -> Vec<Self> {
        let of_stage = |(&layer, m): (&usize, &super::RankMetrics)| Self {
            layer,
            pair_accuracy: m.pair_accuracy,
            kendall_tau: m.kendall_tau,
            overlap: m.overlap,
        };
        evaluation.iter().map(of_stage).collect()
    }

    /// The mean pair accuracy over stages.
    pub fn mean_pair_accuracy(stages: &[Self]) -> f64 {
        stages.iter().map(|stage| stage.pair_accuracy).sum::<f64>() / stages.len() as f64
    }
}

/// The steps of a run so far, and the file that keeps them.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    records: Vec<Record>,
}

impl History {
    /// That of a run that has not begun.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), records: Vec::new() }
    }

    /// That of a run which goes on from a checkpoint: what the file has of later steps is left out,
    /// since they will be taken again.
    ///
    /// # Errors
    /// When the file cannot be read or a line is no record.
    pub fn resume(path: impl Into<PathBuf>, at: &Progress) -> Result<Self> {
        let path = path.into();
        let text = fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
        let mut records = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let record: Record = serde_json::from_str(line).map_err(|e| Error::Malformed {
                path: path.clone(),
                problem: format!("line {} is no record of a step: {e}", index + 1),
            })?;
            let order = (record.phase as u8).cmp(&(at.phase as u8));
            if order.is_lt() || order.is_eq() && record.step <= at.step {
                records.push(record);
            }
        }
        Ok(Self { path, records })
    }

    /// Adds a step.
    pub fn push(&mut self, record: Record) {
        self.records.push(record);
    }

    /// The steps.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Writes the file, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> Result<()> {
        let line = |record| serde_json::to_string(record).expect("plain values") + "\n";
        output::write_whole(&self.path, self.records.iter().map(line).collect::<String>())
    }

    /// The held-out pair accuracy of every stage over the steps of the run.
    pub fn accuracy_chart(&self) -> (Chart, Vec<Series>) {
        let mut series: Vec<Series> = Vec::new();
        for (step, record) in self.records.iter().enumerate() {
            for (index, stage) in record.held_out.iter().enumerate() {
                if index == series.len() {
                    let name = format!("layer {}", stage.layer);
                    series.push(Series { name, points: Vec::new() });
                }
                series[index].points.push(point(step, stage.pair_accuracy));
            }
        }
        (chart("Pair accuracy on held-out texts", "pair accuracy"), series)
    }

    /// The training loss, averaged between evaluations, of every phase.
    pub fn loss_chart(&self) -> (Chart, Vec<Series>) {
        let mut series: Vec<Series> = Vec::new();
        let (mut step, mut since) = (0, Vec::new());
        for phase in self.records.chunk_by(|a, b| a.phase == b.phase) {
            let mut points = Vec::new();
            for (index, record) in phase.iter().enumerate() {
                since.push(record.loss);
                if !record.held_out.is_empty() || index + 1 == phase.len() {
                    let mean = since.iter().sum::<f64>() / since.len() as f64;
                    points.push(point(step, mean));
                    since.clear();
                }
                step += 1;
            }
            series.push(Series { name: format!("{} phase", phase[0].phase), points });
        }
        (chart("Training loss", "loss"), series)
    }
}

fn point(index: usize, y: f64) -> Point {
    Point { x: (index + 1) as f64, y, interval: None }
}

fn chart(title: &str, y_label: &str) -> Chart {
    Chart {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        x_axis: Axis::Linear,
        y_axis: Axis::Linear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(phase: Phase, step: usize) -> Record {
        let accuracy = 1.0 / (step + 2) as f64;
        let stage =
            |layer| StageMetrics { layer, pair_accuracy: accuracy, kendall_tau: 0.1, overlap: 0.3 };
        let held_out = if step.is_multiple_of(2) { vec![stage(3), stage(5)] } else { Vec::new() };
        Record {
            phase,
            step,
            loss: (step as f64).sqrt(),
            rate: 1e-3 / 7.0,
            alive: vec![0.5; held_out.len()],
            held_out,
        }
    }

    fn history(path: PathBuf) -> History {
        let mut history = History::new(path);
        (1..=4).for_each(|step| history.push(record(Phase::Fast, step)));
        (1..=3).for_each(|step| history.push(record(Phase::Full, step)));
        history
    }

    #[test]
    fn what_came_after_the_checkpoint_is_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let whole = history(path.clone());
        whole.write().unwrap();
        for (phase, step, left) in
            [(Phase::Fast, 0, 0), (Phase::Fast, 3, 3), (Phase::Full, 0, 4), (Phase::Full, 2, 6)]
        {
            let at = Progress { phase, step, best: None, evaluations_since: 0 };
            let resumed = History::resume(&path, &at).unwrap();
            assert_eq!(resumed.records(), &whole.records()[..left], "{phase}, step {step}");
        }
        let at = Progress { phase: Phase::Done, step: 0, best: None, evaluations_since: 0 };
        assert_eq!(History::resume(&path, &at).unwrap().records(), whole.records());
        fs::write(&path, "{}\n").unwrap();
        assert!(History::resume(&path, &at).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn charts_have_a_line_per_stage_and_per_phase() {
        let history = history(PathBuf::new());
        let (_, stages) = history.accuracy_chart();
        let names: Vec<_> = stages.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["layer 3", "layer 5"]);
        let steps: Vec<_> = stages[0].points.iter().map(|point| point.x).collect();
        assert_eq!(steps, [2.0, 4.0, 6.0]);
        let (_, phases) = history.loss_chart();
        assert_eq!(phases[0].points[0].y, (1.0 + 2f64.sqrt()) / 2.0);
        let steps: Vec<_> = phases[1].points.iter().map(|point| point.x).collect();
        assert_eq!(steps, [6.0, 7.0]);
    }
}
