//! Fat binaries: what nvcc embeds, PTX and machine code for several architectures in one.
//!
//! The format is not published; this is as nvcc 11 to 13 write it: a header (magic, version, size
//! of the header, size of what follows), then entries, each with a header and its payload.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::ptx::ast::Target;

/// The magic of a `__fatBinC_Wrapper_t`, which points to the binary.
pub const WRAPPER_MAGIC: u32 = 0x4662_43b1;
/// The magic of the binary itself.
pub const MAGIC: u32 = 0xba55_ed50;
/// The size of the binary's header.
pub const HEADER: usize = 16;

const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCHITECTURE: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;
/// No entry is larger, decompressed: what says so is broken.
const MAX_PAYLOAD: u64 = 1 << 30;

/// What is wrong with a fat binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatbinError(String);

impl std::fmt::Display for FatbinError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the fat binary is broken: {}", self.0)
    }
}

impl std::error::Error for FatbinError {}

type Result<T> = std::result::Result<T, FatbinError>;

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PTX text.
    Ptx,
    /// An ELF object with machine code.
    Elf,
    /// Something else, which is passed over.
    Other(u16),
}

/// An entry, not yet decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it holds.
    pub kind: Kind,
    /// What it is compiled for.
    pub target: Target,
    flags: u64,
    uncompressed: u64,
    payload: &'a [u8],
}

/// The size of the whole binary, as its header says.
///
/// # Errors
///
/// No such header.
pub fn size(header: &[u8]) -> Result<usize> {
    if read_u32(header, 0)? != MAGIC {
        return Err(FatbinError("it begins with another magic".to_owned()));
    }
    let before = usize::from(read_u16(header, 6)?);
    if before < HEADER {
        return Err(FatbinError("its header is too short".to_owned()));
    }
    usize::try_from(read_u64(header, 8)?)
        .ok()
        .and_then(|after| after.checked_add(before))
        .ok_or_else(|| FatbinError("it is larger than memory".to_owned()))
}

/// The entries of a binary, in its order.
///
/// # Errors
///
/// A binary that is cut off or malformed.
pub fn entries(binary: &[u8]) -> Result<Vec<Entry<'_>>> {
    let size = size(binary)?;
    let binary = binary.get(..size).ok_or_else(cut_off)?;
    let mut rest = &binary[usize::from(read_u16(binary, 6)?)..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let header_size = read_u32(rest, 4)? as usize;
        let payload_size = usize::try_from(read_u64(rest, 8)?).unwrap_or(usize::MAX);
        let end = header_size.saturating_add(payload_size);
        let payload = rest
            .get(header_size..end)
            .filter(|_| header_size >= 64)
            .ok_or_else(|| FatbinError("an entry is cut off".to_owned()))?;
        let flags = read_u64(rest, 40)?;
        let suffix = match flags {
            _ if flags & FLAG_ARCHITECTURE != 0 => Some('a'),
            _ if flags & FLAG_FAMILY != 0 => Some('f'),
            _ => None,
        };
        let compressed = read_u32(rest, 16)? as usize;
        let is_compressed = flags & (FLAG_LZ4 | FLAG_ZSTD) != 0;
        let payload = if is_compressed {
            payload
                .get(..compressed)
                .ok_or_else(|| FatbinError("an entry is longer than its place".to_owned()))?
        } else {
            payload
        };
        entries.push(Entry {
            kind: match read_u16(rest, 0)? {
                KIND_PTX => Kind::Ptx,
                KIND_ELF => Kind::Elf,
                other => Kind::Other(other),
            },
            target: Target { architecture: read_u32(rest, 28)?, suffix },
            flags,
            uncompressed: read_u64(rest, 56)?,
            payload,
        });
        rest = &rest[end..];
    }
    Ok(entries)
}

impl<'a> Entry<'a> {
    /// What it holds, decompressed.
    ///
    /// # Errors
    ///
    /// Data that does not decompress to what the entry says.
    pub fn payload(&self) -> Result<Cow<'a, [u8]>> {
        if self.flags & (FLAG_LZ4 | FLAG_ZSTD) == 0 {
            return Ok(Cow::Borrowed(self.payload));
        }
        if self.uncompressed > MAX_PAYLOAD {
            return Err(FatbinError("an entry says it is larger than 1 GiB".to_owned()));
        }
        let mut data = vec![0; self.uncompressed as usize];
        let length = if self.flags & FLAG_ZSTD != 0 {
            ruzstd::decoding::FrameDecoder::new()
                .decode_all(self.payload, &mut data)
                .map_err(|error| FatbinError(format!("zstd: {error}")))?
        } else {
            lz4_flex::block::decompress_into(self.payload, &mut data)
                .map_err(|error| FatbinError(format!("lz4: {error}")))?
        };
        if length != data.len() {
            return Err(FatbinError("an entry is shorter than it says".to_owned()));
        }
        Ok(Cow::Owned(data))
    }

    /// The text of PTX, without the zeros behind it.
    ///
    /// # Errors
    ///
    /// As [`Self::payload`], and text that is not UTF-8.
    pub fn text(&self) -> Result<String> {
        let payload = self.payload()?;
        let end = payload.iter().position(|&byte| byte == 0).unwrap_or(payload.len());
        std::str::from_utf8(&payload[..end])
            .map(str::to_owned)
            .map_err(|_| FatbinError("its PTX is not text".to_owned()))
    }
}

/// Says whether PTX for `target` can be compiled for a device (PTX ISA: .target): of its
/// architecture or an older one; with `a`, of the very architecture; with `f`, of its family.
pub fn runs_on(target: Target, architecture: u32) -> bool {
    match target.suffix {
        None => target.architecture <= architecture,
        Some('f') => {
            target.architecture / 10 == architecture / 10 && target.architecture <= architecture
        }
        Some(_) => target.architecture == architecture,
    }
}

/// The PTX that the driver would compile for a device: that for the newest architecture, and among
/// these the most specific.
pub fn choose<'e, 'a>(entries: &'e [Entry<'a>], architecture: u32) -> Option<&'e Entry<'a>> {
    let specific = |target: Target| match target.suffix {
        None => 0,
        Some('f') => 1,
        Some(_) => 2,
    };
    entries
        .iter()
        .filter(|entry| entry.kind == Kind::Ptx && runs_on(entry.target, architecture))
        .max_by_key(|entry| (entry.target.architecture, specific(entry.target)))
}

/// Registers of each kernel as ptxas has given them out, from the machine code for this very
/// architecture; empty if there is none.
///
/// # Errors
///
/// As [`Entry::payload`].
pub fn registers(entries: &[Entry<'_>], architecture: u32) -> Result<HashMap<String, u32>> {
    let mut found = HashMap::new();
    for entry in entries {
        if entry.kind == Kind::Elf && entry.target.architecture == architecture {
            found.extend(elf_registers(&entry.payload()?)?);
        }
    }
    Ok(found)
}

/// Of an ELF object for the GPU: section `.nv.info` has, among other records, one for each kernel,
/// with its symbol and the number of its registers.
fn elf_registers(elf: &[u8]) -> Result<HashMap<String, u32>> {
    if elf.get(..5) != Some(b"\x7fELF\x02") {
        return Err(FatbinError("its machine code is not 64-bit ELF".to_owned()));
    }
    let sections = Sections::new(elf)?;
    let Some(info) = sections.named(b".nv.info")? else { return Ok(HashMap::new()) };
    let mut records = sections.contents(info)?;
    let mut found = HashMap::new();
    while !records.is_empty() {
        let (format, attribute) = (read::<1>(records, 0)?[0], read::<1>(records, 1)?[0]);
        let size = if format == RECORD_SIZED { usize::from(read_u16(records, 2)?) } else { 0 };
        if format == RECORD_SIZED && attribute == RECORD_REGISTERS {
            let name = sections.symbol(read_u32(records, 4)?)?;
            found.insert(name, read_u32(records, 8)?);
        }
        records = records.get(4 + size..).ok_or_else(cut_off)?;
    }
    Ok(found)
}

/// A record of `.nv.info` with as many bytes as it says; the others are of four bytes.
const RECORD_SIZED: u8 = 4;
/// A symbol and a number of registers.
const RECORD_REGISTERS: u8 = 0x2f;

/// The sections of an ELF object.
struct Sections<'a> {
    elf: &'a [u8],
    /// From the first header on.
    headers: &'a [u8],
    header_size: usize,
    count: usize,
    names: usize,
}

impl<'a> Sections<'a> {
    fn new(elf: &'a [u8]) -> Result<Self> {
        let start = usize::try_from(read_u64(elf, 0x28)?).map_err(|_| cut_off())?;
        Ok(Self {
            elf,
            headers: elf.get(start..).ok_or_else(cut_off)?,
            header_size: usize::from(read_u16(elf, 0x3a)?),
            count: usize::from(read_u16(elf, 0x3c)?),
            names: usize::from(read_u16(elf, 0x3e)?),
        })
    }

    fn header(&self, index: usize) -> Result<&'a [u8]> {
        self.headers.get(index * self.header_size..).ok_or_else(cut_off)
    }

    /// The header of the section with this name.
    fn named(&self, name: &[u8]) -> Result<Option<&'a [u8]>> {
        let names = self.contents(self.header(self.names)?)?;
        for index in 0..self.count {
            let header = self.header(index)?;
            if text_at(names, read_u32(header, 0)?)? == name {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn contents(&self, header: &[u8]) -> Result<&'a [u8]> {
        let range = |offset: u64, size: u64| {
            let (offset, size) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
            self.elf.get(offset..offset.checked_add(size)?)
        };
        range(read_u64(header, 0x18)?, read_u64(header, 0x20)?).ok_or_else(cut_off)
    }

    /// The name of a symbol. Its table says where the names are.
    fn symbol(&self, index: u32) -> Result<String> {
        let header = self.named(b".symtab")?.ok_or_else(cut_off)?;
        let symbols = self.contents(header)?;
        let names = self.contents(self.header(read_u32(header, 0x28)? as usize)?)?;
        let symbol = symbols.get(index as usize * SYMBOL_SIZE..).ok_or_else(cut_off)?;
        let name = text_at(names, read_u32(symbol, 0)?)?;
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}

const SYMBOL_SIZE: usize = 24;

fn text_at(strings: &[u8], offset: u32) -> Result<&[u8]> {
    let text = strings.get(offset as usize..).ok_or_else(cut_off)?;
    let end = text.iter().position(|&byte| byte == 0).ok_or_else(cut_off)?;
    Ok(&text[..end])
}

fn cut_off() -> FatbinError {
    FatbinError("it is cut off".to_owned())
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().ok_or_else(cut_off)
}

fn read_u16(bytes: &[u8], at: usize) -> Result<u16> {
    read(bytes, at).map(u16::from_le_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32> {
    read(bytes, at).map(u32::from_le_bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> Result<u64> {
    read(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b".version 8.0\n.target sm_80\n\0\0\0";

    fn entry(kind: u16, target: u32, flags: u64, payload: &[u8], uncompressed: u64) -> Vec<u8> {
        let padded = payload.len().next_multiple_of(8);
        let mut bytes = vec![0; 64];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&64u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[28..32].copy_from_slice(&target.to_le_bytes());
        bytes[40..48].copy_from_slice(&flags.to_le_bytes());
        bytes[56..64].copy_from_slice(&uncompressed.to_le_bytes());
        bytes.extend(payload);
        bytes.resize(64 + padded, 0);
        bytes
    }

    fn binary(entries: &[Vec<u8>]) -> Vec<u8> {
        let size: usize = entries.iter().map(Vec::len).sum();
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0, 16, 0]);
        bytes.extend((size as u64).to_le_bytes());
        bytes.extend(entries.concat());
        bytes
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// An ELF object with the sections that say how many registers a kernel has.
    fn cubin(kernel: &str, registers: u32) -> Vec<u8> {
        let names = format!("\0.names\0.symtab\0.nv.info\0{kernel}\0").into_bytes();
        let mut symbols = vec![0; 2 * SYMBOL_SIZE];
        symbols[SYMBOL_SIZE..SYMBOL_SIZE + 4].copy_from_slice(&25u32.to_le_bytes());
        let mut info = vec![3, 0x11, 9, 9, 4, 0x11, 8, 0, 1, 0, 0, 0, 77, 0, 0, 0];
        info.extend([4, 0x2f, 8, 0, 1, 0, 0, 0]);
        info.extend(registers.to_le_bytes());
        let mut elf = vec![0; 64];
        elf[..5].copy_from_slice(b"\x7fELF\x02");
        let mut headers = vec![0; 64];
        for (name, link, contents) in [(1u32, 0u32, names), (8, 1, symbols), (16, 0, info)] {
            let mut header = [0; 64];
            header[0..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(elf.len() as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(contents.len() as u64).to_le_bytes());
            header[0x28..0x2c].copy_from_slice(&link.to_le_bytes());
            headers.extend(header);
            elf.extend(contents);
        }
        let start = elf.len() as u64;
        elf[0x28..0x30].copy_from_slice(&start.to_le_bytes());
        elf[0x3a..0x40].copy_from_slice(&[64, 0, 4, 0, 1, 0]);
        elf.extend(headers);
        elf
    }

    #[test]
    fn ptx_is_read_plain_and_compressed() {
        let length = TEXT.len() as u64;
        let lz4 = lz4_flex::block::compress(TEXT);
        let binary = binary(&[
            entry(1, 80, 0x11, TEXT, 0),
            entry(1, 90, 0x10_8011, &zstd(TEXT), length),
            entry(1, 100, 0x20_2011, &lz4, length),
        ]);
        let entries = entries(&binary).unwrap();
        let targets: Vec<_> =
            entries.iter().map(|entry| (entry.target.architecture, entry.target.suffix)).collect();
        assert_eq!(targets, [(80, None), (90, Some('a')), (100, Some('f'))]);
        for entry in &entries {
            assert_eq!(entry.kind, Kind::Ptx);
            assert_eq!(entry.text().unwrap(), ".version 8.0\n.target sm_80\n");
        }
    }

    #[test]
    fn the_newest_ptx_that_runs_is_chosen() {
        let any = |target, flags| entry(1, target, flags, TEXT, 0);
        let machine_code = entry(2, 86, 0, TEXT, 0);
        let binary = binary(&[
            any(75, 0),
            any(80, 0),
            machine_code,
            any(90, 0x10_0000),
            any(100, 0x20_0000),
            any(100, 0x10_0000),
        ]);
        let entries = entries(&binary).unwrap();
        let chosen = |architecture| {
            choose(&entries, architecture)
                .map(|entry| (entry.target.architecture, entry.target.suffix))
        };
        assert_eq!(chosen(70), None);
        assert_eq!(chosen(75), Some((75, None)));
        assert_eq!(chosen(86), Some((80, None)));
        assert_eq!(chosen(90), Some((90, Some('a'))));
        assert_eq!(chosen(100), Some((100, Some('a'))));
        assert_eq!(chosen(103), Some((100, Some('f'))));
        assert_eq!(chosen(120), Some((80, None)));
    }

    #[test]
    fn registers_come_from_machine_code_of_the_device() {
        let elf = cubin("scale", 42);
        let other = cubin("scale", 50);
        let binary = binary(&[
            entry(2, 90, 0x8011, &zstd(&elf), elf.len() as u64),
            entry(2, 80, 0x11, &other, 0),
        ]);
        let entries = entries(&binary).unwrap();
        assert_eq!(registers(&entries, 90).unwrap()["scale"], 42);
        assert_eq!(registers(&entries, 80).unwrap()["scale"], 50);
        assert_eq!(registers(&entries, 89).unwrap(), HashMap::new());
    }

    #[test]
    fn broken_binaries_are_refused() {
        let elf = cubin("scale", 42);
        let whole = binary(&[
            entry(1, 80, 0x8011, &zstd(TEXT), TEXT.len() as u64),
            entry(2, 80, 0x11, &elf, 0),
        ]);
        assert!(entries(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(entries(&whole[..length]).is_err(), "{length} bytes");
        }
        // Every byte is changed in turn: whatever it leads to, it is not a panic.
        let read_all = |bytes: &[u8]| -> Result<()> {
            let entries = entries(bytes)?;
            for entry in &entries {
                entry.payload()?;
            }
            registers(&entries, 80)?;
            Ok(())
        };
        let mut refused = 0;
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                refused += usize::from(read_all(&bytes).is_err());
            }
        }
        assert!(refused > 30, "{refused}");
        let lies = binary(&[entry(1, 80, 0x8011, &zstd(TEXT), u64::MAX)]);
        assert!(entries(&lies).unwrap()[0].payload().is_err());
        let lies = binary(&[entry(1, 80, 0x8011, &zstd(TEXT), TEXT.len() as u64 + 1)]);
        assert!(entries(&lies).unwrap()[0].payload().is_err());
    }
}
