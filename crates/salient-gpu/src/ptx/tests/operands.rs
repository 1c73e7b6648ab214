//! PTX ISA: section 6.

use super::super::ast::{Guard, Name, Operand};
use super::{F, R, RD, instructions, operands};

fn address(base: Operand, offset: i64) -> Operand {
    Operand::Address(Box::new(base), offset)
}

#[test]
fn registers_and_names() {
    use Operand::{Function, Integer, Register, Sink, Special, Variable};
    for (statement, expected) in [
        ("mov.b32 %r1, %r7;", vec![Register(R + 1), Register(R + 7)]),
        ("mov.b32 %r1, %tid.x;", vec![Register(R + 1), Special("tid.x".to_owned())]),
        ("mov.b32 %r1, %laneid;", vec![Register(R + 1), Special("laneid".to_owned())]),
        ("mov.b64 %rd1, %clock64;", vec![Register(RD + 1), Special("clock64".to_owned())]),
        ("mov.b32 %r1, %envreg31;", vec![Register(R + 1), Special("envreg31".to_owned())]),
        ("mov.b64 %rd1, %pm7_64;", vec![Register(RD + 1), Special("pm7_64".to_owned())]),
        ("mov.u64 %rd1, numbers;", vec![Register(RD + 1), Variable(Name::Module(0), 0)]),
        ("mov.u64 %rd1, numbers+8;", vec![Register(RD + 1), Variable(Name::Module(0), 8)]),
        ("mov.u64 %rd1, numbers[3];", vec![Register(RD + 1), Variable(Name::Module(0), 12)]),
        ("mov.u32 %r1, tile + 4*4;", vec![Register(R + 1), Variable(Name::Body(0), 16)]),
        ("mov.b64 %rd1, count;", vec![Register(RD + 1), Variable(Name::Param(1), 0)]),
        ("mov.u64 %rd1, kernel;", vec![Register(RD + 1), Function("kernel".to_owned())]),
        ("bar.sync 0;", vec![Integer(0)]),
        ("ret;", vec![]),
        ("mbarrier.arrive.shared.b64 _, [%r1];", vec![Sink, address(Register(R + 1), 0)]),
    ] {
        assert_eq!(operands(statement), expected, "{statement}");
    }
}

#[test]
fn predicates() {
    use Operand::{Integer, Not, Pair, Register, Sink};
    let pair = |a, b| Pair(Box::new(a), Box::new(b));
    for (statement, expected) in [
        (
            "setp.eq.u32 %p1|%p2, %r1, 5;",
            vec![pair(Register(1), Register(2)), Register(R + 1), Integer(5)],
        ),
        (
            "setp.eq.and.u32 _|%p2, %r1, 5, !%p3;",
            vec![pair(Sink, Register(2)), Register(R + 1), Integer(5), Not(3)],
        ),
        (
            "shfl.sync.idx.b32 %r1|%p1, %r2, 0, 31, -1;",
            vec![
                pair(Register(R + 1), Register(1)),
                Register(R + 2),
                Integer(0),
                Integer(31),
                Integer(-1),
            ],
        ),
    ] {
        assert_eq!(operands(statement), expected, "{statement}");
    }
    let guards: Vec<_> = instructions("@%p1 ret; @!%p2 ret; @ ! %p0 ret; ret;")
        .iter()
        .map(|instruction| instruction.guard)
        .collect();
    let guard = |register, negated| Some(Guard { register, negated });
    assert_eq!(guards, [guard(1, false), guard(2, true), guard(0, true), None]);
}

#[test]
fn addresses() {
    use Operand::{Integer, Register, Tensor, Variable, Vector};
    for (written, expected) in [
        ("[%rd1]", address(Register(RD + 1), 0)),
        ("[%rd1+8]", address(Register(RD + 1), 8)),
        ("[ %rd1 + 0x10 ]", address(Register(RD + 1), 16)),
        ("[%r1+-4]", address(Register(R + 1), -4)),
        ("[%rd1+WARP_SZ*4]", address(Register(RD + 1), 128)),
        ("[numbers]", address(Variable(Name::Module(0), 0), 0)),
        ("[numbers+8]", address(Variable(Name::Module(0), 0), 8)),
        ("[count+0]", address(Variable(Name::Param(1), 0), 0)),
        ("numbers[2]", address(Variable(Name::Module(0), 0), 8)),
        ("[4096]", address(Integer(4096), 0)),
        ("[4096+8]", address(Integer(4104), 0)),
        (
            "[%rd1, {%r1, %r2}]",
            Tensor(vec![Register(RD + 1), Vector(vec![Register(R + 1), Register(R + 2)])]),
        ),
        (
            "[%rd1+64, {%r1}, {%r3, 4}]",
            Tensor(vec![
                address(Register(RD + 1), 64),
                Vector(vec![Register(R + 1)]),
                Vector(vec![Register(R + 3), Integer(4)]),
            ]),
        ),
    ] {
        let found = operands(&format!("ld.b32 %r1, {written};"));
        assert_eq!(found, [Register(R + 1), expected], "{written}");
    }
}

#[test]
fn vectors() {
    use Operand::{Integer, Register, Sink, Vector};
    assert_eq!(
        operands("ld.v4.f32 {%f0, %f1, _, %f3}, [%rd1];"),
        [
            Vector(vec![Register(F), Register(F + 1), Sink, Register(F + 3)]),
            address(Register(RD + 1), 0),
        ]
    );
    assert_eq!(
        operands("mov.b64 %rd1, {%r1, 5};"),
        [Register(RD + 1), Vector(vec![Register(R + 1), Integer(5)])]
    );
}
