//! Logic, shifts, fields and permutes, bit by bit.

use crate::ptx::ast::Operand;

use super::{Bench, Draw, FULL, check, integers, product};

fn register(bits: u32) -> &'static str {
    match bits {
        16 => "b16",
        32 => "b32",
        _ => "b64",
    }
}

fn bit(word: u64, at: u32) -> u64 {
    if at < 64 { word >> at & 1 } else { 0 }
}

/// A word of this many bits from a function of their places.
fn word(bits: u32, f: impl Fn(u32) -> u64) -> u64 {
    (0..bits).fold(0, |word, at| word | (f(at) & 1) << at)
}

#[test]
fn logic_of_every_width() {
    for bits in [16, 32, 64] {
        let (kind, all) = (register(bits), integers(bits));
        let tuples = product(&[&all, &all]);
        let ones = all.iter().map(|&a| vec![a]).collect::<Vec<_>>();
        let mask = u64::MAX >> (64 - bits);
        check(&format!("and.{kind}"), &[kind; 3], &tuples, |t| t[0] & t[1]);
        check(&format!("or.{kind}"), &[kind; 3], &tuples, |t| t[0] | t[1]);
        check(&format!("xor.{kind}"), &[kind; 3], &tuples, |t| t[0] ^ t[1]);
        check(&format!("not.{kind}"), &[kind; 2], &ones, |t| !t[0] & mask);
        check(&format!("cnot.{kind}"), &[kind; 2], &ones, |t| u64::from(t[0] == 0));
    }
}

#[test]
fn logic_of_predicates() {
    let tuples = product(&[&[0, 1], &[0, 1]]);
    check("and.pred", &["pred"; 3], &tuples, |t| t[0] & t[1]);
    check("or.pred", &["pred"; 3], &tuples, |t| t[0] | t[1]);
    check("xor.pred", &["pred"; 3], &tuples, |t| t[0] ^ t[1]);
    check("not.pred", &["pred"; 2], &[vec![0], vec![1]], |t| 1 - t[0]);
    let mut values = [[0; 32], [1; 32], [0; 32]];
    values[2][5] = 1;
    let bench = Bench::new(&["pred"; 3]).with(vec![
        Operand::Register(0),
        Operand::Register(1),
        Operand::Not(2),
    ]);
    bench.run("and.pred", FULL, &mut values).unwrap();
    assert!((0..32).all(|lane| values[0][lane] == u128::from(lane != 5)));
}

#[test]
fn shifts_clamp_their_amounts() {
    let amounts = [0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0x8000_0000, 0xffff_ffff];
    for bits in [16, 32, 64] {
        let tuples = product(&[&integers(bits), &amounts]);
        let types = [register(bits), register(bits), "b32"];
        let far = |n: u64| n.min(100) as u32;
        check(&format!("shl.b{bits}"), &types, &tuples, |t| {
            word(bits, |at| if at < far(t[1]) { 0 } else { bit(t[0], at - far(t[1])) })
        });
        for kind in ["b", "u"] {
            check(&format!("shr.{kind}{bits}"), &types, &tuples, |t| {
                word(bits, |at| bit(t[0], at + far(t[1])))
            });
        }
        check(&format!("shr.s{bits}"), &types, &tuples, |t| {
            word(bits, |at| bit(t[0], (at + far(t[1])).min(bits - 1)))
        });
    }
}

#[test]
fn funnel_shifts() {
    let amounts = [0, 1, 5, 31, 32, 33, 63, 64, 0xffff_ffff];
    let all = integers(32);
    let tuples = product(&[&all, &all, &amounts]);
    for (mode, amount) in [("wrap", (|n| n & 31) as fn(u64) -> u64), ("clamp", |n: u64| n.min(32))]
    {
        check(&format!("shf.l.{mode}.b32"), &["b32"; 4], &tuples, |t| {
            let pair = u128::from(t[1] << 32 | t[0]) << amount(t[2]);
            (pair >> 32) as u64 & 0xffff_ffff
        });
        check(&format!("shf.r.{mode}.b32"), &["b32"; 4], &tuples, |t| {
            (t[1] << 32 | t[0]) >> amount(t[2]) & 0xffff_ffff
        });
    }
}

#[test]
fn every_table_of_three_bits() {
    let mut draw = Draw(3);
    for table in 0..256u64 {
        let values: [[u128; 32]; 4] =
            std::array::from_fn(|_| std::array::from_fn(|_| (draw.next() >> 32).into()));
        let mut operands: Vec<Operand> = (0..4).map(Operand::Register).collect();
        operands.push(Operand::Integer(table.into()));
        let mut after = values;
        Bench::new(&["b32"; 4]).with(operands).run("lop3.b32", FULL, &mut after).unwrap();
        for lane in 0..32 {
            let [a, b, c] = [1, 2, 3].map(|register| values[register][lane] as u64);
            let expected =
                word(32, |at| bit(table, (bit(a, at) * 4 + bit(b, at) * 2 + bit(c, at)) as u32));
            assert_eq!(after[0][lane] as u64, expected, "table {table:#x}");
        }
    }
}

#[test]
fn tables_go_into_predicates() {
    for (name, combine) in
        [("or", (|a, b| a | b) as fn(bool, bool) -> bool), ("and", |a: bool, b: bool| a & b)]
    {
        let mut values = vec![[0; 32]; 6];
        for lane in 0..32 {
            values[1][lane] = lane as u128 & 1;
            values[2][lane] = 3;
            values[5][lane] = lane as u128 >> 1 & 1;
        }
        let r = Operand::Register;
        let pair = Operand::Pair(Box::new(r(0)), Box::new(r(4)));
        let bench = Bench::new(&["b32", "b32", "b32", "b32", "pred", "pred"]);
        let operands = vec![pair, r(1), r(2), r(3), Operand::Integer(0xc0), Operand::Not(5)];
        bench.all(&[(&format!("lop3.{name}.b32"), operands)], FULL, &mut values).unwrap();
        for lane in 0..32 {
            let both = lane & 1;
            assert_eq!(values[0][lane], both as u128);
            let expected = combine(both != 0, lane >> 1 & 1 == 0);
            assert_eq!(values[4][lane] != 0, expected);
        }
    }
}

#[test]
fn counts_and_searches() {
    for bits in [32, 64] {
        let all: Vec<Vec<u64>> = integers(bits).iter().map(|&a| vec![a]).collect();
        let kind = register(bits);
        let bits_set = |t: &[u64]| (0..bits).filter(|&at| bit(t[0], at) != 0).collect::<Vec<_>>();
        check(&format!("popc.{kind}"), &["b32", kind], &all, |t| bits_set(t).len() as u64);
        check(&format!("clz.{kind}"), &["b32", kind], &all, |t| {
            u64::from(bits_set(t).last().map_or(bits, |highest| bits - 1 - highest))
        });
        check(&format!("brev.{kind}"), &[kind, kind], &all, |t| {
            word(bits, |at| bit(t[0], bits - 1 - at))
        });
        for signed in [false, true] {
            let name = if signed { 's' } else { 'u' };
            let find = |t: &[u64]| {
                let sign = if signed { bit(t[0], bits - 1) } else { 0 };
                (0..bits).rev().find(|&at| bit(t[0], at) != sign)
            };
            check(&format!("bfind.{name}{bits}"), &["b32", kind], &all, |t| {
                find(t).map_or(0xffff_ffff, u64::from)
            });
            check(&format!("bfind.shiftamt.{name}{bits}"), &["b32", kind], &all, |t| {
                find(t).map_or(0xffff_ffff, |at| u64::from(bits - 1 - at))
            });
        }
    }
}

#[test]
fn fields() {
    let places = [0, 1, 5, 31, 32, 33, 63, 64, 200, 255, 256, 0x1_07];
    for bits in [32, 64] {
        let kind = register(bits);
        let all = integers(bits);
        let tuples = product(&[&all, &places, &places]);
        for signed in [false, true] {
            let name = if signed { 's' } else { 'u' };
            let types = [kind, kind, "b32", "b32"];
            check(&format!("bfe.{name}{bits}"), &types, &tuples, |t| {
                let (pos, len) = (t[1] as u32 & 0xff, t[2] as u32 & 0xff);
                let fill =
                    if signed && len > 0 { bit(t[0], (pos + len - 1).min(bits - 1)) } else { 0 };
                word(
                    bits,
                    |at| {
                        if at < len && pos + at < bits { bit(t[0], pos + at) } else { fill }
                    },
                )
            });
        }
        let tuples = product(&[&all, &[0, u64::MAX >> (64 - bits), 0xa5a5_a5a5], &places, &places]);
        check(&format!("bfi.b{bits}"), &[kind, kind, kind, "b32", "b32"], &tuples, |t| {
            let (pos, len) = (t[2] as u32 & 0xff, t[3] as u32 & 0xff);
            word(bits, |at| {
                if at >= pos && at - pos < len { bit(t[0], at - pos) } else { bit(t[1], at) }
            })
        });
    }
}

#[test]
fn masks_and_extensions() {
    let places = [0, 1, 5, 8, 16, 31, 32, 33, 40, 63, 64, 0xffff_ffff];
    let tuples = product(&[&places, &places]);
    check("bmsk.clamp.b32", &["b32"; 3], &tuples, |t| {
        word(32, |at| u64::from(u64::from(at) >= t[0] && u64::from(at) < t[0] + t[1]))
    });
    check("bmsk.wrap.b32", &["b32"; 3], &tuples, |t| {
        let (from, count) = (t[0] & 31, t[1] & 31);
        word(32, |at| u64::from(u64::from(at) >= from && u64::from(at) < from + count))
    });
    let tuples = product(&[&integers(32), &places]);
    for (mode, count) in [("wrap", (|n| n & 31) as fn(u64) -> u64), ("clamp", |n: u64| n.min(32))] {
        check(&format!("szext.{mode}.u32"), &["b32"; 3], &tuples, |t| {
            word(32, |at| if u64::from(at) < count(t[1]) { bit(t[0], at) } else { 0 })
        });
        check(&format!("szext.{mode}.s32"), &["b32"; 3], &tuples, |t| {
            let count = count(t[1]) as u32;
            let sign = if count == 0 { 0 } else { bit(t[0], count - 1) };
            word(32, |at| if at < count { bit(t[0], at) } else { sign })
        });
    }
}

#[test]
fn the_nth_bit_that_is_set() {
    let masks = [0, 1, 0x8000_0000, 0xffff_ffff, 0xaaaa_aaaa, 0x0010_8421];
    let bases = [0, 1, 15, 16, 31];
    let offsets =
        [0, 1, 2, 5, 16, 32, 33, -1i32 as u32, -2i32 as u32, -32i32 as u32].map(u64::from);
    check("fns.b32", &["b32"; 4], &product(&[&masks, &bases, &offsets]), |t| {
        let (base, offset) = (t[1] as u32, t[2] as u32 as i32);
        let up = (base..32).filter(|&at| bit(t[0], at) != 0);
        let down = (0..=base).rev().filter(|&at| bit(t[0], at) != 0);
        let found = match offset {
            0 => (bit(t[0], base) != 0).then_some(base),
            1.. => up.clone().nth(offset as usize - 1),
            _ => down.clone().nth(offset.unsigned_abs() as usize - 1),
        };
        found.map_or(0xffff_ffff, u64::from)
    });
}

#[test]
fn permutes() {
    let byte = |t: &[u64], at: u64| (t[1] << 32 | t[0]) >> (8 * at) & 0xff;
    let bytes = |t: &[u64], places: [u64; 4]| {
        (0..4).fold(0, |word, at| word | byte(t, places[at]) << (8 * at))
    };
    let mut draw = Draw(9);
    let tuples: Vec<Vec<u64>> =
        (0..3200).map(|_| (0..3).map(|_| draw.next() >> 32).collect()).collect();
    check("prmt.b32", &["b32"; 4], &tuples, |t| {
        (0..4).fold(0, |word, at| {
            let nibble = t[2] >> (4 * at) & 15;
            let picked = byte(t, nibble & 7);
            let signs = if picked >= 0x80 { 0xff } else { 0 };
            word | (if nibble & 8 != 0 { signs } else { picked }) << (8 * at)
        })
    });
    // The manual's table, lowest byte first.
    let table: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, places) in table {
        check(&format!("prmt.b32.{mode}"), &["b32"; 4], &tuples, |t| {
            bytes(t, places[t[2] as usize & 3])
        });
    }
}
