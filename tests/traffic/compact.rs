//! **compact**.

use salient::compact::{KvMode, RowShape};
use salient::{Ragged, Result};
use salient_oracle::compact::Kept;
use salient_oracle::generate::Random;

use crate::runs::caches::{Caches, Form};
use crate::runs::compact::RowsRun;
use crate::runs::random_bytes;
use crate::{Launched, Traffic, counting};

/// Lists may cost 2% in bytes: eight times that in sectors, for an entry that all lanes read is one
/// of the eight words of a sector.
const MOST: f64 = 1.16;

/// Bytes of all sectors that were touched over the least.
fn ratio(launched: &[Launched], least: u64) -> f64 {
    let [launched] = launched else { panic!("one launch") };
    launched.sector_bytes() as f64 / least as f64
}

#[test]
fn rows_move_little_more_than_themselves() {
    counting("rows_move_little_more_than_themselves", |on| {
        let source = Ragged::from_lens(&[700, 300])?;
        let mut random = Random::new(1);
        let lists: Vec<Vec<i32>> = source.lens().map(|len| random.subset(len, 0.35)).collect();
        let kept = Kept { source: &source, heads: 1, lists: &lists };
        let rows = kept.rows();
        // Hidden states, residuals and positions.
        let shapes = [8192, 8192, 4].map(RowShape::packed);
        let tensors = shapes.map(|shape| random_bytes(source.total() * shape.row_bytes, 2));
        let sources: Vec<_> = tensors.iter().map(|tensor| (&tensor[..], 0)).collect();
        let run = RowsRun::new(&on.device, &kept, 0, &shapes)?;
        let sizes = shapes.map(|shape| rows.len() * shape.row_bytes);
        let token: usize = shapes.iter().map(|shape| shape.row_bytes).sum();
        let (moved, launched) = on.launches(|device| run.gather(device, &sources, &sizes))?;
        let over = ratio(&launched, 2 * (token * rows.len()) as u64);
        assert!(over <= MOST, "{over:.4} of the least bytes");
        let (hidden, there) = ([moved.places[0]].to_vec(), [moved.places[1]].to_vec());
        let (hidden, there) =
            (launched[0].buffer(&hidden, "src"), launched[0].buffer(&there, "dst"));
        assert_eq!((hidden.read, there.written), (8192 * rows.len() as u64, hidden.read));
        hidden.assert_whole_sectors("source");
        there.assert_whole_sectors("destination");

        let (moved, launched) = on.launches(|device| run.in_place(device, &sources))?;
        let moving = rows.iter().enumerate().filter(|&(to, &from)| to != from).count();
        let over = ratio(&launched, 2 * (token * moving) as u64);
        assert!(over <= MOST, "in place: {over:.4} of the least bytes");
        let hidden = launched[0].buffer(&[moved.places[0]].to_vec(), "src");
        let expected = (8192 * moving) as u64;
        assert_eq!((hidden.read, hidden.written), (expected, expected));
        hidden.assert_whole_sectors("tensor");
        // One tensor alone makes fewer streams, each of which reads the list.
        let alone = RowsRun::new(&on.device, &kept, 0, &shapes[..1])?;
        let (_, launched) = on.launches(|device| alone.in_place(device, &sources[..1]))?;
        let over = ratio(&launched, 2 * (shapes[0].row_bytes * moving) as u64);
        assert!(over <= MOST, "one tensor in place: {over:.4} of the least bytes");
        Ok(())
    });
}

#[test]
fn caches_move_little_more_than_themselves() {
    counting("caches_move_little_more_than_themselves", |on| {
        for form in [Form::TokenMajor, Form::HeadMajor, Form::Nhd, Form::Hnd] {
            for (mode, list_heads) in [
                (KvMode::Stable, 1),
                (KvMode::Stable, 8),
                (KvMode::HoleFill, 1),
                (KvMode::HoleFill, 8),
            ] {
                // Lanes of 256 bytes.
                let case = Caches {
                    form,
                    mode,
                    list_heads,
                    heads: 8,
                    dim: if form == Form::HeadMajor { 256 } else { 128 },
                    lens: vec![250],
                    share: 0.5,
                    layers: 16,
                    tail: 0,
                    ..Caches::default()
                };
                let (moved, launched) = on.launches(|device| case.run(device))?;
                let context = format!("{form:?} {mode:?}, {list_heads} lists");
                let over = ratio(&launched, case.least_bytes());
                assert!(over <= MOST, "{context}: {over:.4} of the least bytes");
                let cache = launched[0].buffer(&moved.places, "cache");
                assert_eq!(cache.read + cache.written, case.least_bytes(), "{context}");
                cache.assert_whole_sectors(&context);
                launched[0].assert_few_conflicts(&context);
            }
        }
        Ok(())
    });
}

#[test]
fn what_is_in_its_place_is_not_touched() {
    counting("what_is_in_its_place_is_not_touched", |on| {
        for form in [Form::TokenMajor, Form::Vllm] {
            for mode in [KvMode::Stable, KvMode::HoleFill] {
                let case = Caches { form, mode, share: 1.0, ..Caches::default() };
                let (moved, launched) = on.launches(|device| case.run(device))?;
                let cache = launched[0].buffer(&moved.places, "cache");
                assert_eq!(cache, Traffic::default(), "{form:?} {mode:?}");
            }
        }
        in_place_rows_stay(on)
    });
}

fn in_place_rows_stay(on: &crate::Counting<'_>) -> Result<()> {
    let source = Ragged::from_lens(&[40, 0, 9])?;
    let lists: Vec<Vec<i32>> = source.lens().map(|len| (0..len as i32).collect()).collect();
    let kept = Kept { source: &source, heads: 1, lists: &lists };
    let run = RowsRun::new(&on.device, &kept, 0, &[RowShape::packed(64)])?;
    let data = random_bytes(64 * source.total(), 0);
    let (moved, launched) = on.launches(|device| run.in_place(device, &[(&data, 0)]))?;
    assert_eq!(launched[0].buffer(&moved.places, "src"), Traffic::default());
    Ok(())
}
