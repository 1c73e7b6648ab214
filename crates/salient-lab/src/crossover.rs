//! From which prompt length on pruning pays, by the record of a run.

/// The default of `salient generate --crossover`: of the recorded prompt lengths the shortest from
/// which on every recorded schedule was faster than no pruning at all. Shorter prompts are on no
/// record.
///
/// The record is `benches/records/2026-11-22-crossover.json`: SmolLM2-135M on 2 cores. Another
/// model, scorer or machine has another; `salient bench --length 64,128,256,512,1024` measures it.
pub const CROSSOVER: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_the_record_says() {
        let record = include_str!("../../../benches/records/2026-11-22-crossover.json");
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        let rows = record["rows"].as_array().unwrap();
        let pays = |length: u64| {
            let mut longer = rows.iter().filter(|row| row["length"].as_u64() >= Some(length));
            longer.all(|row| row["schedule"] == "dense" || row["speedup"].as_f64() > Some(1.0))
        };
        let lengths = rows.iter().filter_map(|row| row["length"].as_u64());
        let shortest = lengths.filter(|&length| pays(length)).min();
        assert_eq!(shortest, Some(CROSSOVER as u64));
    }
}
