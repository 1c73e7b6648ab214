//! Modules: PTX in, kernels and variables out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use salient_gpu::device::DEFAULT_SHARED;
use salient_gpu::fatbin::{self, HEADER, MAGIC, WRAPPER_MAGIC};
use salient_gpu::{Kernel, LoadError};

use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, Text, driver};
use crate::state::{Current, Driver, Function, ModuleState, Tables, current, fresh};
use crate::work::finish_context;

/// The newest PTX that the driver of CUDA 13.0 takes.
const PTX_VERSION: (u32, u32) = (9, 0);

driver! {
    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        let mut image = fs::read(path.str()?).map_err(|_| Code::FILE_NOT_FOUND)?;
        image.push(0);
        let (driver, current) = current()?;
        module.wanted()?.set(load_image(driver, current, Image::of(&image)?)?)
    }

    fn cuModuleLoadData(module: Out<Handle>, image: In<u8>) {
        load_data(module, image)
    }

    fn cuModuleLoadDataEx(
        module: Out<Handle>, image: In<u8>, _count: u32, _options: In<u32>, _values: In<u64>
    ) {
        load_data(module, image)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: In<u8>) {
        load_data(module, image)
    }

    fn cuModuleUnload(module: Handle) {
        let (driver, current) = current()?;
        driver.tables().check_unsafe_call()?;
        let known = driver.tables().modules.get(&module).map(|module| module.context);
        let context = known.ok_or(Code::INVALID_HANDLE)?;
        let finished = finish_context(driver, context);
        let mut tables = driver.tables();
        tables.functions.retain(|_, function| function.module != module);
        let removed = tables.modules.remove(&module);
        drop(tables);
        if let Some(removed) = removed {
            removed.module.unload(driver.devices[current.device].gpu.memory());
        }
        finished
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        let (driver, _) = current()?;
        function.wanted()?.set(function_of(&mut driver.tables(), module, name.str()?)?)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        let (driver, _) = current()?;
        let tables = driver.tables();
        let module = tables.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        count.set(module.module.kernels().count() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, count: u32, module: Handle) {
        let (driver, _) = current()?;
        let mut tables = driver.tables();
        let found = Arc::clone(&tables.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.module);
        for (index, kernel) in found.kernels().take(count as usize).enumerate() {
            functions.at(index).set(function_of(&mut tables, module, kernel.name())?)?;
        }
        Ok(())
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let (driver, _) = current()?;
        let tables = driver.tables();
        let module = tables.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let found = module.module.variable(name.str()?).ok_or(Code::NOT_FOUND)?;
        address.set_if_wanted(found.0);
        bytes.set_if_wanted(found.1 as usize);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        mode.set(2) // lazy
    }
}

fn load_data(module: Out<Handle>, image: In<u8>) -> Result {
    let (driver, current) = current()?;
    let image = Image::at(image)?;
    module.wanted()?.set(load_image(driver, current, image)?)
}

/// What a module is made from.
pub(crate) enum Image<'a> {
    Ptx(Cow<'a, str>),
    Fatbin(&'a [u8]),
    Cubin,
}

impl<'a> Image<'a> {
    /// At an address that a caller hands over with no length: as long as it says itself.
    pub(crate) fn at(image: In<u8>) -> Result<Self> {
        let mut magic = [0; 4];
        for (index, byte) in magic.iter_mut().enumerate() {
            *byte = image.at(index)?;
            if *byte == 0 {
                break;
            }
        }
        match u32::from_le_bytes(magic) {
            WRAPPER_MAGIC => Self::at(In::from_address(image.cast::<u64>().at(1)?)),
            MAGIC => {
                let size = fatbin::size(image.bytes(HEADER)?).map_err(|error| refuse(&error))?;
                Ok(Self::Fatbin(image.bytes(size)?))
            }
            _ if magic == *b"\x7fELF" => Ok(Self::Cubin),
            _ => {
                let mut length = 0;
                while image.at(length)? != 0 {
                    length += 1;
                }
                Self::text(image.bytes(length)?)
            }
        }
    }

    fn of(image: &'a [u8]) -> Result<Self> {
        match image.first_chunk() {
            Some(&magic) if u32::from_le_bytes(magic) == MAGIC => Ok(Self::Fatbin(image)),
            Some(b"\x7fELF") => Ok(Self::Cubin),
            _ => {
                let length = image.iter().position(|&byte| byte == 0).unwrap_or(image.len());
                Self::text(&image[..length])
            }
        }
    }

    fn text(bytes: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| Code::INVALID_IMAGE)?;
        if text.trim().is_empty() { Err(Code::INVALID_IMAGE) } else { Ok(Self::Ptx(text.into())) }
    }
}

/// Loads a module into a context.
pub(crate) fn load_image(driver: &Driver, current: Current, image: Image<'_>) -> Result<Handle> {
    driver.tables().check_unsafe_call()?;
    load_image_anyway(driver, current, image)
}

/// As [`load_image`], even while something is captured: the runtime loads what is used first then.
pub(crate) fn load_image_anyway(
    driver: &Driver,
    current: Current,
    image: Image<'_>,
) -> Result<Handle> {
    let gpu = &driver.devices[current.device].gpu;
    let architecture = driver.devices[current.device].limits.architecture;
    let (text, registers) = match image {
        Image::Ptx(text) => (text, HashMap::new()),
        Image::Fatbin(binary) => {
            let entries = fatbin::entries(binary).map_err(|error| refuse(&error))?;
            let Some(chosen) = fatbin::choose(&entries, architecture) else {
                return Err(no_binary(architecture));
            };
            let registers =
                fatbin::registers(&entries, architecture).map_err(|error| refuse(&error))?;
            (chosen.text().map_err(|error| refuse(&error))?.into(), registers)
        }
        Image::Cubin => return Err(no_binary(architecture)),
    };
    let text = crate::replace::replace(text).map_err(|error| {
        eprintln!("software GPU: {error}");
        Code::FILE_NOT_FOUND
    })?;
    let newer = version_of(&text).is_some_and(|version| version > PTX_VERSION);
    if newer {
        let (major, minor) = PTX_VERSION;
        eprintln!("software GPU: the PTX is newer than version {major}.{minor}");
        return Err(Code::UNSUPPORTED_PTX_VERSION);
    }
    let module = gpu.load_with(&text, &registers).map_err(|error| {
        eprintln!("software GPU: {error}");
        match error {
            LoadError::Target(..) => Code::NO_BINARY_FOR_GPU,
            LoadError::Memory => Code::OUT_OF_MEMORY,
            _ => Code::INVALID_PTX,
        }
    })?;
    let handle = fresh();
    let state = ModuleState { context: current.context, module, functions: HashMap::new() };
    driver.tables().modules.insert(handle, state);
    Ok(handle)
}

/// `.version 8.7`, before anything but comments.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let version = text.lines().find_map(|line| line.trim().strip_prefix(".version"))?;
    let (major, minor) = version.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn refuse(error: &fatbin::FatbinError) -> Code {
    eprintln!("software GPU: {error}");
    Code::INVALID_IMAGE
}

fn no_binary(architecture: u32) -> Code {
    eprintln!(
        "software GPU: it runs PTX, and this code has none for sm_{architecture} or an older device; \
         build with nvcc -gencode=arch=compute_{architecture},code=compute_{architecture}"
    );
    Code::NO_BINARY_FOR_GPU
}

/// The handle of a module's kernel, the same whenever it is asked for.
pub(crate) fn function_of(tables: &mut Tables, module: Handle, name: &str) -> Result<Handle> {
    let state = tables.modules.get_mut(&module).ok_or(Code::INVALID_HANDLE)?;
    let kernel = state.module.kernel(name).ok_or(Code::NOT_FOUND)?;
    let handle = *state.functions.entry(name.to_owned()).or_insert_with(fresh);
    let context = state.context;
    tables.functions.entry(handle).or_insert_with(|| Function::new(context, module, kernel));
    Ok(handle)
}

impl Function {
    fn new(context: Handle, module: Handle, kernel: Arc<Kernel>) -> Self {
        let static_shared = u32::try_from(kernel.static_shared()).unwrap_or(u32::MAX);
        Self {
            context,
            module,
            kernel,
            dynamic_limit: DEFAULT_SHARED.saturating_sub(static_shared),
            large_clusters: false,
            carveout: -1,
        }
    }
}
