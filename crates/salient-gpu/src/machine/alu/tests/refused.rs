//! What the manual does not have is refused by name.

use super::{Bench, FULL};

fn error(op: &str, types: &[&str]) -> String {
    let mut values = vec![[0; 32]; types.len()];
    match Bench::new(types).run(op, FULL, &mut values) {
        Ok(()) => panic!("{op} is taken"),
        Err(error) => error,
    }
}

#[test]
fn instructions_that_are_none() {
    for (op, types) in [
        ("add.foo.s32", &["b32"; 3][..]),
        ("add.sat.u32", &["b32"; 3]),
        ("add.rn.s32", &["b32"; 3]),
        ("add.ftz.f64", &["b64"; 3]),
        ("add.sat.bf16", &["b16"; 3]),
        ("add.u8", &["b16"; 3]),
        ("mul.s32", &["b32"; 3]),
        ("mul.wide.s64", &["b64"; 3]),
        ("fma.f32", &["b32"; 4]),
        ("fma.rn.s32", &["b32"; 4]),
        ("abs.u32", &["b32"; 2]),
        ("neg.b32", &["b32"; 2]),
        ("min.relu.u32", &["b32"; 3]),
        ("min.xorsign.f32", &["b32"; 3]),
        ("div.f32", &["b32"; 3]),
        ("div.approx.f64", &["b64"; 3]),
        ("sqrt.approx.rn.f32", &["b32"; 2]),
        ("ex2.approx.f64", &["b64"; 2]),
        ("tanh.approx.ftz.f32", &["b32"; 2]),
        ("ex2.approx.bf16", &["b16"; 2]),
        ("sin.f32", &["b32"; 2]),
        ("popc.u32", &["b32"; 2]),
        ("and.u32", &["b32"; 3]),
        ("shl.u32", &["b32"; 3]),
        ("shf.l.b32", &["b32"; 4]),
        ("prmt.b64", &["b64"; 4]),
        ("setp.lo.s32", &["pred", "b32", "b32"]),
        ("setp.lt.b32", &["pred", "b32", "b32"]),
        ("setp.lt.f16x2", &["pred", "b32", "b32"]),
        ("setp.equ.u32", &["pred", "b32", "b32"]),
        ("selp.f16", &["b16", "b16", "b16", "pred"]),
        ("cvt.s32.f32", &["b32"; 2]),
        ("cvt.rn.s32.f32", &["b32"; 2]),
        ("cvt.f32.s32", &["b32"; 2]),
        ("cvt.f32.f64", &["b32", "b64"]),
        ("cvt.rn.f64.f32", &["b64", "b32"]),
        ("cvt.rn.f32.f32", &["b32"; 2]),
        ("cvt.rni.f64.f32", &["b64", "b32"]),
        ("cvt.relu.f32.f32", &["b32"; 2]),
        ("cvt.rn.e4m3x2.f32", &["b16", "b32", "b32"]),
        ("cvt.rz.f16x2.e4m3x2", &["b32", "b16"]),
        ("cvt.sat.s64.u32", &["b64", "b32"]),
        ("cvt.sat.u16.u16", &["b16"; 2]),
        ("cvt.rzi.u8.bf16", &["b16"; 2]),
        ("cvt.rn.bf16.s8", &["b16"; 2]),
        ("cvt.rn.sat.bf16.f32", &["b16", "b32"]),
        ("cvt.rn.relu.f16.f64", &["b16", "b64"]),
        ("mov.f16", &["b16"; 2]),
        ("testp.odd.f32", &["pred", "b32"]),
        ("addc.lo.u32", &["b32"; 3]),
        ("mad.cc.u32", &["b32"; 4]),
    ] {
        let error = error(op, types);
        assert!(error.contains(op), "{op}: {error}");
    }
}

#[test]
fn operands_that_do_not_fit() {
    for (op, types) in [
        ("add.s32", &["b32", "b32", "b64"][..]),
        ("add.s32", &["b16", "b32", "b32"]),
        ("add.s32", &["b32", "b32"]),
        ("add.s32", &["b32"; 4]),
        ("add.f64", &["b32"; 3]),
        ("mul.wide.s32", &["b32"; 3]),
        ("setp.eq.s32", &["b32"; 3]),
        ("selp.b32", &["b32"; 4]),
        ("and.pred", &["pred", "pred", "b32"]),
        ("cvt.s64.s32", &["b32"; 2]),
        ("cvt.s32.s64", &["b32"; 2]),
        ("mov.b32", &["b32", "b64"]),
        ("setp.lt.and.s32", &["pred", "b32", "b32"]),
    ] {
        error(op, types);
    }
}
