//! Names that PTX itself gives: instructions, special registers, types and targets.

use super::ast::{Kind, Target, Type};

/// The newest `.version` whose text is understood.
pub(super) const NEWEST: (u32, u32) = (9, 3);

/// Whether the instruction set has a name (PTX ISA: section 9).
pub(super) fn is_instruction(name: &str) -> bool {
    INSTRUCTIONS.contains(&name)
}

/// Whether there is a special register of a name without its `%` (PTX ISA: section 10).
pub(super) fn is_special(name: &str) -> bool {
    is_special_vector(name)
        || SPECIALS.contains(&name)
        || numbered(name, "envreg", "", 32)
        || numbered(name, "pm", "", 8)
        || numbered(name, "pm", "_64", 8)
}

/// Whether a special register has components `.x` to `.w`.
pub(super) fn is_special_vector(name: &str) -> bool {
    const VECTORS: [&str; 8] = [
        "tid",
        "ntid",
        "ctaid",
        "nctaid",
        "clusterid",
        "nclusterid",
        "cluster_ctaid",
        "cluster_nctaid",
    ];
    VECTORS.contains(&name)
}

/// A fundamental type by its name without the dot.
pub(super) fn type_named(name: &str) -> Option<Type> {
    let (kind, bits) = match name {
        "pred" => (Kind::Predicate, 1),
        "f16x2" => (Kind::Packed, 32),
        "f16" => (Kind::Float, 16),
        "f32" => (Kind::Float, 32),
        "f64" => (Kind::Float, 64),
        "b8" => (Kind::Bits, 8),
        "b16" => (Kind::Bits, 16),
        "b32" => (Kind::Bits, 32),
        "b64" => (Kind::Bits, 64),
        "b128" => (Kind::Bits, 128),
        "u8" => (Kind::Unsigned, 8),
        "u16" => (Kind::Unsigned, 16),
        "u32" => (Kind::Unsigned, 32),
        "u64" => (Kind::Unsigned, 64),
        "s8" => (Kind::Signed, 8),
        "s16" => (Kind::Signed, 16),
        "s32" => (Kind::Signed, 32),
        "s64" => (Kind::Signed, 64),
        _ => return None,
    };
    Some(Type { kind, bits })
}

/// Whether a `.pragma` string is known; all are hints (PTX ISA: descriptions of .pragma strings).
pub(super) fn is_pragma(text: &str) -> bool {
    let name = text.split_whitespace().next().unwrap_or_default();
    matches!(name, "nounroll" | "used_bytes_mask" | "enable_smem_spilling" | "frequency")
}

/// `sm_90a` and its like (PTX ISA: .target).
pub(super) fn target_named(name: &str) -> Option<Target> {
    const PLAIN: [u32; 27] = [
        20, 21, 30, 32, 35, 37, 50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 88, 89, 90, 100,
        101, 103, 110, 120, 121,
    ];
    const FAMILIES: [u32; 6] = [100, 101, 103, 110, 120, 121];
    let number = name.strip_prefix("sm_")?;
    let (digits, suffix) = match number.as_bytes().last()? {
        b'a' => (&number[..number.len() - 1], Some('a')),
        b'f' => (&number[..number.len() - 1], Some('f')),
        _ => (number, None),
    };
    let architecture = digits.parse().ok().filter(|_| canonical(digits))?;
    let known = match suffix {
        None => PLAIN.contains(&architecture),
        Some('a') => architecture == 90 || FAMILIES.contains(&architecture),
        Some(_) => FAMILIES.contains(&architecture),
    };
    known.then_some(Target { architecture, suffix })
}

/// Whether digits are a number as `.reg .b32 %r<10>` numbers registers: no sign, no leading zero.
pub(super) fn canonical(digits: &str) -> bool {
    !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'))
}

fn numbered(name: &str, prefix: &str, suffix: &str, count: u32) -> bool {
    name.strip_prefix(prefix)
        .and_then(|rest| rest.strip_suffix(suffix))
        .filter(|digits| canonical(digits))
        .and_then(|digits| digits.parse::<u32>().ok())
        .is_some_and(|number| number < count)
}

const SPECIALS: [&str; 29] = [
    "laneid",
    "warpid",
    "nwarpid",
    "smid",
    "nsmid",
    "gridid",
    "is_explicit_cluster",
    "cluster_ctarank",
    "cluster_nctarank",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_end",
    "reserved_smem_offset_cap",
    "reserved_smem_offset_0",
    "reserved_smem_offset_1",
    "total_smem_size",
    "aggr_smem_size",
    "dynamic_smem_size",
    "current_graph_exec",
];

#[rustfmt::skip]
const INSTRUCTIONS: &[&str] = &[
    // Integers.
    "add", "sub", "mul", "mad", "mul24", "mad24", "sad", "div", "rem", "abs", "neg", "min", "max",
    "popc", "clz", "bfind", "fns", "brev", "bfe", "bfi", "bmsk", "szext", "dp4a", "dp2a", "addc",
    "subc", "madc",
    // Floating point.
    "testp", "copysign", "fma", "rcp", "sqrt", "rsqrt", "sin", "cos", "lg2", "ex2", "tanh",
    // Comparison, selection and logic.
    "set", "setp", "selp", "slct", "and", "or", "xor", "not", "cnot", "lop3", "shf", "shl", "shr",
    // Movement and conversion of data.
    "mov", "shfl", "prmt", "ld", "ldu", "st", "red", "atom", "multimem", "prefetch", "prefetchu",
    "applypriority", "discard", "createpolicy", "isspacep", "cvta", "cvt", "mapa", "getctarank",
    "cp", "tensormap",
    // Textures and surfaces.
    "tex", "tld4", "txq", "istypep", "suld", "sust", "sured", "suq",
    // Control flow.
    "bra", "brx", "call", "ret", "exit",
    // Synchronisation and communication.
    "bar", "barrier", "membar", "fence", "vote", "match", "activemask", "redux", "griddepcontrol",
    "elect", "mbarrier", "clusterlaunchcontrol",
    // Matrices.
    "wmma", "mma", "ldmatrix", "stmatrix", "movmatrix", "wgmma", "tcgen05",
    // Stack.
    "stacksave", "stackrestore", "alloca",
    // Video.
    "vadd", "vsub", "vabsdiff", "vmin", "vmax", "vshl", "vshr", "vmad", "vset", "vadd2", "vsub2",
    "vavrg2", "vabsdiff2", "vmin2", "vmax2", "vset2", "vadd4", "vsub4", "vavrg4", "vabsdiff4",
    "vmin4", "vmax4", "vset4",
    // The rest.
    "brkpt", "nanosleep", "pmevent", "trap", "setmaxnreg",
];
