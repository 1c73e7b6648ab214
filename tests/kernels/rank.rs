//! Percentile ranks.

use salient::{Fault, Status};
use salient_oracle::generate::Distribution;
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::score::rank::Case;

use crate::place::on_device;
use crate::runs::score::RankRun;
use crate::{device, same_in_any_order};

fn case(lens: &[usize]) -> Case {
    Case { seed: 3, distribution: Distribution::SprinkledNan, lens: lens.to_vec(), heads: 2 }
}

#[test]
fn the_same_in_any_order() {
    let case = case(&[300, 0, 1300]);
    let (scores, rows) = (case.scores(), case.rows());
    same_in_any_order("ranks", || {
        let device = device()?;
        let ranked = RankRun::new(&device, &scores, &rows, 0)?.launch(&device)?;
        let bits: Vec<u32> = ranked.scores.iter().map(|rank| rank.to_bits()).collect();
        Ok(bits)
    });
}

/// What lies before the scores and behind them is not counted.
#[test]
fn scores_may_begin_at_any_address() {
    on_device("scores_may_begin_at_any_address", || {
        let device = device()?;
        let case = case(&[1, 150, 257]);
        let scores = case.scores();
        let expected = case.expected(&scores);
        for skip in 0..4 {
            let ranked = RankRun::new(&device, &scores, &case.rows(), skip)?.launch(&device)?;
            assert_eq!(ranked.status, Status::CLEAR);
            assert_same_bits(&ranked.scores, &expected, &format!("{skip} elements away"));
        }
        Ok(())
    });
}

#[test]
fn offsets_that_cannot_be_are_reported_and_change_nothing_else() {
    // And the sequences at fault.
    let edits: [([i32; 4], &[usize]); 6] = [
        ([0, 30, 20, 340], &[1, 2]),
        ([0, 30, 40, 341], &[2]),
        ([-1, 30, 40, 340], &[0]),
        ([0, 30, i32::MAX, 340], &[1, 2]),
        ([i32::MIN, 30, 40, 340], &[0]),
        // Longer than the plan allows.
        ([0, 30, 30, 340], &[2]),
    ];
    on_device("offsets_that_cannot_be_are_reported_and_change_nothing_else", || {
        let device = device()?;
        let case = case(&[30, 10, 300]);
        let (scores, rows) = (case.scores(), case.rows());
        let right = case.expected(&scores);
        for (i, (offsets, faulty)) in edits.into_iter().enumerate() {
            let mut run = RankRun::new(&device, &scores, &rows, 0)?;
            run.cu_seqlens.write(&offsets)?;
            let ranked = run.launch(&device)?;
            assert!(ranked.status.has(Fault::Lengths), "edit {i}");
            assert_eq!(ranked.status.row(), Some(faulty[0]), "edit {i}");
            for head in 0..case.heads {
                for (sequence, span) in rows.spans().enumerate() {
                    let start = head * rows.total() + span.start;
                    let range = start..start + span.len;
                    let untouched = vec![7.0; span.len];
                    // The last edit leaves the second sequence without tokens.
                    let written = offsets[sequence] < offsets[sequence + 1];
                    let right = &right[range.clone()];
                    let expected =
                        if faulty.contains(&sequence) || !written { &untouched } else { right };
                    let context = format!("edit {i}, head {head}, sequence {sequence}");
                    assert_same_bits(&ranked.scores[range], expected, &context);
                }
            }
        }
        Ok(())
    });
}
