//! Modules: what is loaded, and laid out to be launched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::ptx::ast::{self, Function, Name, Operand, Space, Target, Variable};
use crate::ptx::{ParseError, parse};

use crate::tensor::mma::Mma;
use crate::tensor::warpgroup::Wgmma;

use super::body;
use super::inst::Inst;
use super::lower::{Filled, Lower};
use super::memory::Memory;

/// A module that was loaded.
pub struct Module {
    target: Target,
    kernels: HashMap<String, Arc<Kernel>>,
    variables: HashMap<String, (u64, u64)>,
    allocations: Vec<u64>,
}

/// Why a module could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// What is no PTX, or none that this machine knows.
    #[error("PTX {0}")]
    Invalid(#[from] ParseError),
    /// PTX for another device.
    #[error("the PTX is for sm_{0}{1}, the software GPU is sm_{2}")]
    Target(u32, String, u32),
    /// There is no room for its variables.
    #[error("no memory for the module's variables")]
    Memory,
}

/// A parameter of a kernel, in its parameter buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

/// A kernel of a module, ready to be launched.
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: u64,
    pub(crate) static_shared: u64,
    pub(crate) local_bytes: u64,
    pub(crate) threads: Option<([u32; 3], bool)>,
    pub(crate) cluster: Option<[u32; 3]>,
    pub(crate) registers: u32,
    pub(crate) insts: Vec<Inst>,
    pub(crate) filled: Filled,
    pub(crate) mmas: Vec<Mma>,
    pub(crate) wgmmas: Vec<Wgmma>,
    pub(crate) places: Vec<Place>,
    pub(crate) files: Arc<HashMap<u32, String>>,
}

/// Where an instruction stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ptx_line: u32,
    /// File and line, where it was written and not where that was inlined.
    pub(crate) source: Option<(u32, u32)>,
    /// The opcode with its modifiers.
    pub(crate) opcode: Arc<str>,
}

impl Module {
    /// Parses and lowers all of a module's text; nothing of it is left for later.
    pub(crate) fn load(
        text: &str,
        architecture: u32,
        registers: &HashMap<String, u32>,
        memory: &Memory,
    ) -> Result<Self, LoadError> {
        let module = parse(text)?;
        let target = module.target;
        let fits = match target.suffix {
            None => target.architecture <= architecture,
            Some('a') => target.architecture == architecture,
            _ => {
                target.architecture / 10 == architecture / 10 && target.architecture <= architecture
            }
        };
        if !fits {
            let suffix = target.suffix.map(String::from).unwrap_or_default();
            return Err(LoadError::Target(target.architecture, suffix, architecture));
        }
        let mut loaded = Self {
            target,
            kernels: HashMap::new(),
            variables: HashMap::new(),
            allocations: Vec::new(),
        };
        let globals = loaded.place_variables(&module, memory)?;
        let files = Arc::new(module.files.clone());
        for function in module.functions.iter().filter(|f| f.entry && f.defined) {
            let mut kernel = Kernel::new(&module, function, &globals)?;
            kernel.files = files.clone();
            if let Some(&count) = registers.get(&function.name) {
                kernel.registers = count;
            }
            loaded.kernels.insert(function.name.clone(), Arc::new(kernel));
        }
        Ok(loaded)
    }

    fn place_variables(
        &mut self,
        module: &ast::Module,
        memory: &Memory,
    ) -> Result<HashMap<u32, u64>, LoadError> {
        let mut globals = HashMap::new();
        let is_global = |v: &Variable| matches!(v.space, Space::Global | Space::Constant);
        for (i, variable) in module.variables.iter().enumerate().filter(|(_, v)| is_global(v)) {
            if variable.external {
                continue;
            }
            let address = memory.allocate(variable.size).ok_or(LoadError::Memory)?;
            self.allocations.push(address);
            globals.insert(i as u32, address);
            self.variables.insert(variable.name.clone(), (address, variable.size));
        }
        for (i, variable) in module.variables.iter().enumerate() {
            let Some(&address) = globals.get(&(i as u32)) else { continue };
            let mut bytes = variable.initial.clone();
            bytes.resize(variable.size as usize, 0);
            for (offset, name, from, _) in &variable.pointers {
                let Some(&(target, _)) = self.variables.get(name) else { continue };
                let target = target.wrapping_add_signed(*from).to_le_bytes();
                bytes[*offset..offset + 8].copy_from_slice(&target);
            }
            memory.write(address, &bytes).map_err(|_| LoadError::Memory)?;
        }
        Ok(globals)
    }

    /// A kernel, by its name in PTX.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.get(name).cloned()
    }

    /// All kernels, in no order.
    pub fn kernels(&self) -> impl Iterator<Item = &Arc<Kernel>> {
        self.kernels.values()
    }

    /// Address and bytes of a variable in global or constant memory.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.variables.get(name).copied()
    }

    /// What it was compiled for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Gives the memory of its variables back.
    pub fn unload(&self, memory: &Memory) {
        for &address in &self.allocations {
            // It was allocated by `load`, and may have been freed by nobody else.
            let _ = memory.free(address);
        }
    }
}

impl Kernel {
    fn new(
        module: &ast::Module,
        function: &Function,
        globals: &HashMap<u32, u64>,
    ) -> Result<Self, ParseError> {
        let (params, param_bytes) = lay_out_params(&function.params);
        let layout = Layout::new(module, function, globals, &params)?;
        let address = |name: &Name| layout.address(name);
        let mut cx = Lower::new(module, function, &address);
        let mut places = Vec::new();
        let local_bytes = body::lower(&mut cx, &mut places, layout.local_bytes)?;
        let filled = cx.filled();
        let Lower { insts, mmas, wgmmas, .. } = cx;
        let threads = function.threads;
        let most = threads.map_or(1024, |(t, _)| t.iter().product::<u32>()).max(1);
        let blocks = function.min_blocks.unwrap_or(1).max(1);
        let bound = bounded_registers(most, blocks, function.max_registers);
        Ok(Self {
            name: function.name.clone(),
            target: module.target,
            params,
            param_bytes,
            static_shared: layout.static_shared,
            local_bytes,
            threads,
            cluster: function.cluster,
            registers: largest_setmaxnreg(module, function).map_or(bound, |most| most.min(bound)),
            insts,
            filled,
            mmas,
            wgmmas,
            places,
            files: Arc::default(),
        })
    }

    /// Its name in PTX.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The size of the parameter buffer.
    pub fn param_bytes(&self) -> u64 {
        self.param_bytes
    }

    /// Shared memory that it declares with a size, in bytes.
    pub fn static_shared(&self) -> u64 {
        self.static_shared
    }

    /// Local memory per thread, in bytes.
    pub fn local_bytes(&self) -> u64 {
        self.local_bytes
    }

    /// The most threads that a block may have, if it says so.
    pub fn max_threads(&self) -> Option<u32> {
        self.threads.map(|(threads, _)| threads.iter().product())
    }

    /// The block's shape that it requires, if it does.
    pub fn required_threads(&self) -> Option<[u32; 3]> {
        self.threads.and_then(|(threads, required)| required.then_some(threads))
    }

    /// The cluster's shape that it requires, if it does.
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        self.cluster
    }

    /// Registers per thread: ptxas' number where it is known, else the most that its launch bounds
    /// allow.
    pub fn registers(&self) -> u32 {
        self.registers
    }

    /// What it was compiled for.
    pub fn target(&self) -> Target {
        self.target
    }
}

/// The most registers a thread may have for a block of this many threads, and that many blocks, to
/// fit on a multiprocessor of 65,536: in steps of 8, at most 255. The warps of a block take turns
/// on the four partitions of a multiprocessor, which have a quarter each.
fn bounded_registers(threads: u32, blocks: u32, asked: Option<u32>) -> u32 {
    let warps = threads.div_ceil(32).next_multiple_of(4) * blocks;
    let bound = (65536 / (warps * 32)) / 8 * 8;
    bound.clamp(8, 255).min(asked.unwrap_or(255))
}

/// What a kernel that moves registers between warps asks for at most: ptxas gives a thread no more
/// of them to begin with.
fn largest_setmaxnreg(module: &ast::Module, function: &Function) -> Option<u32> {
    let counts = function.instructions.iter().filter_map(|instruction| {
        let name = &module.opcodes[instruction.opcode as usize].name;
        match instruction.operands[..] {
            [ast::Operand::Integer(count)] if name == "setmaxnreg" => u32::try_from(count).ok(),
            _ => None,
        }
    });
    counts.max()
}

/// Parameters lie one after the other, each at a multiple of its alignment.
fn lay_out_params(params: &[Variable]) -> (Vec<Param>, u64) {
    let mut end = 0u64;
    let mut placed = Vec::new();
    for param in params {
        let offset = end.next_multiple_of(param.align.max(1));
        placed.push(Param { offset, size: param.size });
        end = offset + param.size;
    }
    (placed, end)
}

/// Where the names of a kernel lie.
struct Layout<'a> {
    globals: &'a HashMap<u32, u64>,
    shared: HashMap<Name, u64>,
    local: HashMap<u32, u64>,
    params: Vec<u64>,
    static_shared: u64,
    local_bytes: u64,
}

impl<'a> Layout<'a> {
    fn new(
        module: &ast::Module,
        function: &Function,
        globals: &'a HashMap<u32, u64>,
        params: &[Param],
    ) -> Result<Self, ParseError> {
        let mut layout = Self {
            globals,
            shared: HashMap::new(),
            local: HashMap::new(),
            params: params.iter().map(|param| param.offset).collect(),
            static_shared: 0,
            local_bytes: 0,
        };
        // In the order of their names' first use, as nobody may rely on any.
        let mut used = Vec::new();
        collect_shared(module, function, &mut used, &mut HashSet::new());
        let mut dynamic = Vec::new();
        for name in used {
            let variable = match name {
                Name::Module(i) => &module.variables[i as usize],
                Name::Body(i) => &function.variables[i as usize],
                Name::Param(_) | Name::Return(_) => continue,
            };
            if variable.external || variable.size == 0 {
                dynamic.push((name, variable.align.max(1)));
                continue;
            }
            let at = layout.static_shared.next_multiple_of(variable.align.max(1));
            layout.static_shared = at + variable.size;
            layout.shared.insert(name, at);
        }
        // Dynamic shared memory begins behind what is static, for all names of it alike.
        let align = dynamic.iter().map(|&(_, align)| align).max().unwrap_or(16).max(16);
        let start = layout.static_shared.next_multiple_of(align);
        if !dynamic.is_empty() {
            layout.static_shared = start;
        }
        for (name, _) in dynamic {
            layout.shared.insert(name, start);
        }
        for (i, variable) in function.variables.iter().enumerate() {
            if matches!(variable.space, Space::Local | Space::Param) {
                let at = layout.local_bytes.next_multiple_of(variable.align.max(1));
                layout.local_bytes = at + variable.size;
                layout.local.insert(i as u32, at);
            }
        }
        Ok(layout)
    }

    fn address(&self, name: &Name) -> Option<u64> {
        if let Some(&at) = self.shared.get(name) {
            return Some(at);
        }
        match name {
            Name::Module(i) => self.globals.get(i).copied(),
            Name::Body(i) => self.local.get(i).copied(),
            Name::Param(i) => self.params.get(*i as usize).copied(),
            Name::Return(_) => None,
        }
    }
}

/// Shared variables that a function names, and those it calls.
fn collect_shared(
    module: &ast::Module,
    function: &Function,
    used: &mut Vec<Name>,
    seen: &mut HashSet<String>,
) {
    if !seen.insert(function.name.clone()) {
        return;
    }
    let outer = seen.len() == 1;
    for (i, variable) in function.variables.iter().enumerate() {
        if outer && variable.space == Space::Shared {
            used.push(Name::Body(i as u32));
        }
    }
    for instruction in &function.instructions {
        for operand in &instruction.operands {
            collect_from(module, operand, used, seen);
        }
    }
}

fn collect_from(
    module: &ast::Module,
    operand: &Operand,
    used: &mut Vec<Name>,
    seen: &mut HashSet<String>,
) {
    match operand {
        Operand::Variable(name @ Name::Module(i), _)
            if module.variables[*i as usize].space == Space::Shared && !used.contains(name) =>
        {
            used.push(*name);
        }
        Operand::Address(inner, _) => collect_from(module, inner, used, seen),
        Operand::Tensor(inner) | Operand::Vector(inner) | Operand::List(inner) => {
            inner.iter().for_each(|operand| collect_from(module, operand, used, seen));
        }
        Operand::Pair(a, b) => {
            collect_from(module, a, used, seen);
            collect_from(module, b, used, seen);
        }
        Operand::Function(name) => {
            let called = module.functions.iter().find(|f| f.name == *name && f.defined);
            if let Some(called) = called {
                collect_shared(module, called, used, seen);
            }
        }
        _ => {}
    }
}
