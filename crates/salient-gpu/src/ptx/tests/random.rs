//! Texts that are damaged anywhere.

use proptest::prelude::*;

use super::{parse, text};

/// Something of most of what there is.
fn sample() -> String {
    text(
        ".file 1 \"a.cu\"
.extern .shared .align 16 .b8 dynamic[];
.global .align 8 .u64 table[2][2] = {{1, -2}, {generic(x) + 4, 0x7fU}};
.const .f32 half = 0.5;
.func (.param .b32 r) f(.param .b64 a) .noreturn { st.param.b32 [r], 0f3F800000; trap; }
.visible .entry k(.param .u64 .ptr .global .align 16 p, .param .align 8 .b8 s[24])
.maxntid 128, 1, 1 .minnctapersm 2
{
  .reg .pred %p<3>; .reg .b32 %r<9>, y; .reg .b64 %rd<4>;
  .local .align 4 .b8 depot[16];
  .loc 1 2 3
  targets: .branchtargets one, two;
  ld.param.u64 %rd1, [p];
  { .reg .b32 %r1; one: mov.b32 %r1, %tid.x; bra one; }
  .loc 1 4 5, function_name name+4, inlined_at 1 2 3
one: setp.lt.s32 %p1|%p2, %r1, (5 << 2) % 7 ? ~1 : -3;
  @!%p1 brx.idx %r2, targets;
  cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r1, %r2}], [%r3+8];
  { .param .b64 a; .param .b32 q; st.param.b64 [a+0], %rd1; call.uni (q), f, (a); }
two: mov.b64 {%r1, _}, %rd1; /* end */ ret; // done
}
.section .debug_str { .b8 1, 2 }",
    )
    .replace(".global .align 8", ".global .u32 x;\n.global .align 8")
}

#[test]
fn the_sample_is_sound() {
    super::parsed(&sample());
}

#[test]
fn every_beginning_of_the_sample_is_refused_or_parsed() {
    let sample = sample();
    let lines = sample.lines().count() as u32;
    // What ends behind an item of the module is a module; what ends within one is not.
    let mut parsed = 0;
    for (end, _) in sample.char_indices() {
        match parse(&sample[..end]) {
            Ok(_) => parsed += 1,
            Err(error) => assert!((1..=lines + 1).contains(&error.line), "{error}"),
        }
    }
    assert!((8..100).contains(&parsed), "{parsed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damage_does_not_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, 0..12usize), 1..4),
        fill in prop::sample::select(vec![
            "", "{", "}", "[", "]", "(", ")", ",", ";", ":", "::", ".", "%", "%r", "<", ">", "\"",
            "/*", "//", "0x", "0f", "9e9", "-", "!", "@", "|", "_", "\n", "ü", "\0", "a", ".v4",
            "18446744073709551615", "[1]", "<99999>", ".b8", "=", "?", "generic(", "+", "WARP_SZ",
        ]),
        words in any::<[prop::sample::Index; 2]>(),
    ) {
        let mut text = sample();
        for (at, remove, copy) in cuts {
            let mut start = at.index(text.len());
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let end = text[start..].char_indices().nth(remove).map_or(text.len(), |(i, _)| start + i);
            // A word from elsewhere, which is where a damaged text is most nearly sound.
            let all: Vec<&str> = text.split_inclusive([' ', ',']).collect();
            let from = words[copy % 2].index(all.len());
            let moved = if copy == 0 { String::new() } else { all[from].to_owned() };
            text.replace_range(start..end, &format!("{fill}{moved}"));
        }
        let lines = text.lines().count() as u32;
        if let Err(error) = parse(&text) {
            prop_assert!((1..=lines + 1).contains(&error.line), "{}", error);
        }
    }
}
