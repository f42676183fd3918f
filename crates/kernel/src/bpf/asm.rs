//! A small assembler for eBPF (Documentation/bpf/standardization/instruction-set.rst): the instructions that we use,
//! as methods; labels instead of offsets.
#![expect(clippy::too_many_arguments, reason = "instructions have that many operands")]

use std::collections::BTreeMap;

/// One instruction as bpf(2) takes it (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source in the high one.
    pub registers: u8,
    /// Offset of a memory access or jump.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

/// A register. R0 is a call's result, R1 to R5 its arguments (gone after it), R6 to R9 are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "numbers")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    /// End of the 512 bytes of stack, which grow down.
    Frame,
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One byte.
    B = 0x10,
    /// Two bytes.
    H = 0x08,
    /// Four bytes.
    W = 0x00,
    /// Eight bytes.
    D = 0x18,
}

/// What to do with a register and a constant or another register; 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as named")]
pub enum Alu {
    Add = 0x00,
    Or = 0x40,
    And = 0x50,
    ShiftRight = 0x70,
    Xor = 0xa0,
}

/// When to jump. Constants are compared as 32 bits, registers as 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as named")]
pub enum When {
    Eq = 0x10,
    /// Greater, without signs.
    Gt = 0x20,
    Ne = 0x50,
}

/// Functions of the kernel (`enum bpf_func_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_skb_store_bytes`.
    StoreBytes = 9,
    /// `bpf_redirect`.
    Redirect = 23,
    /// `bpf_skb_load_bytes`.
    LoadBytes = 26,
    /// `bpf_csum_diff`.
    ChecksumDiff = 28,
    /// `bpf_skb_change_tail`.
    ChangeTail = 38,
}

/// A place in the program to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(u32);

/// A program in the making.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    labels: u32,
    bound: BTreeMap<Label, usize>,
    jumps: Vec<(usize, Label)>,
}

/// A program that cannot be: a mistake in the code that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// A jump leads to a label that was never bound.
    #[error("the jump at instruction {0} leads nowhere")]
    Unbound(usize),
    /// A jump is longer than an instruction can say.
    #[error("the jump at instruction {0} is too long")]
    Far(usize),
}

const CLASS_LOAD_MEMORY: u8 = 0x61;
const CLASS_STORE_CONSTANT: u8 = 0x62;
const CLASS_STORE_REGISTER: u8 = 0x63;
const CLASS_JUMP: u8 = 0x05;
const CLASS_JUMP32: u8 = 0x06;
const CLASS_ALU64: u8 = 0x07;
const FROM_REGISTER: u8 = 0x08;

impl Assembler {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, code: u8, to: Reg, from: Reg, rest: (i16, i32)) -> &mut Self {
        let registers = to as u8 | (from as u8) << 4;
        self.insns.push(Insn { code, registers, offset: rest.0, immediate: rest.1 });
        self
    }

    /// A label to jump to, not bound yet.
    pub fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }

    /// The label means the next instruction.
    pub fn bind(&mut self, label: Label) -> &mut Self {
        self.bound.insert(label, self.insns.len());
        self
    }

    /// `to = value`.
    pub fn set(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(CLASS_ALU64 | 0xb0, to, Reg::R0, (0, value))
    }

    /// `to = from`.
    pub fn copy(&mut self, to: Reg, from: Reg) -> &mut Self {
        self.push(CLASS_ALU64 | 0xb0 | FROM_REGISTER, to, from, (0, 0))
    }

    /// `to = value`, all 64 bits of it. Two instructions.
    pub fn set_wide(&mut self, to: Reg, value: u64) -> &mut Self {
        let [low, high] = [value, value >> 32].map(|half| (half & 0xffff_ffff) as u32);
        self.push(0x18, to, Reg::R0, (0, low.cast_signed())).push(0, Reg::R0, Reg::R0, (0, high.cast_signed()))
    }

    /// `reg = reg ∘ value`.
    pub fn alu(&mut self, op: Alu, reg: Reg, value: i32) -> &mut Self {
        self.push(CLASS_ALU64 | op as u8, reg, Reg::R0, (0, value))
    }

    /// `reg = reg ∘ other`.
    pub fn alu_reg(&mut self, op: Alu, reg: Reg, other: Reg) -> &mut Self {
        self.push(CLASS_ALU64 | op as u8 | FROM_REGISTER, reg, other, (0, 0))
    }

    /// `to = *(base + offset)`.
    pub fn load(&mut self, size: Size, to: Reg, base: Reg, offset: i16) -> &mut Self {
        self.push(CLASS_LOAD_MEMORY | size as u8, to, base, (offset, 0))
    }

    /// `*(base + offset) = from`.
    pub fn store(&mut self, size: Size, base: Reg, offset: i16, from: Reg) -> &mut Self {
        self.push(CLASS_STORE_REGISTER | size as u8, base, from, (offset, 0))
    }

    /// `*(base + offset) = value`.
    pub fn store_value(&mut self, size: Size, base: Reg, offset: i16, value: i32) -> &mut Self {
        self.push(CLASS_STORE_CONSTANT | size as u8, base, Reg::R0, (offset, value))
    }

    /// Jumps.
    pub fn jump(&mut self, to: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), to));
        self.push(CLASS_JUMP, Reg::R0, Reg::R0, (0, 0))
    }

    /// Jumps if the low 32 bits of a register compare so with a constant.
    pub fn jump_if(&mut self, when: When, reg: Reg, value: i32, to: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), to));
        self.push(CLASS_JUMP32 | when as u8, reg, Reg::R0, (0, value))
    }

    /// Jumps if two registers compare so.
    pub fn jump_if_reg(&mut self, when: When, reg: Reg, other: Reg, to: Label) -> &mut Self {
        self.jumps.push((self.insns.len(), to));
        self.push(CLASS_JUMP | when as u8 | FROM_REGISTER, reg, other, (0, 0))
    }

    /// Calls a function of the kernel.
    pub fn call(&mut self, helper: Helper) -> &mut Self {
        self.push(CLASS_JUMP | 0x80, Reg::R0, Reg::R0, (0, helper as i32))
    }

    /// Ends with `verdict` as the result.
    pub fn finish(&mut self, verdict: i32) -> &mut Self {
        self.set(Reg::R0, verdict).exit()
    }

    /// Ends with what is in R0.
    pub fn exit(&mut self) -> &mut Self {
        self.push(CLASS_JUMP | 0x90, Reg::R0, Reg::R0, (0, 0))
    }

    /// The program with its jumps filled in.
    pub fn assemble(mut self) -> Result<Vec<Insn>, AssemblyError> {
        for (at, label) in self.jumps {
            let target = *self.bound.get(&label).ok_or(AssemblyError::Unbound(at))?;
            let distance = target.cast_signed() - at.cast_signed() - 1;
            self.insns[at].offset = i16::try_from(distance).map_err(|_| AssemblyError::Far(at))?;
        }
        Ok(self.insns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut a = Assembler::new();
        let end = a.label();
        a.copy(Reg::R6, Reg::R1).load(Size::W, Reg::R2, Reg::R6, 16).jump_if(When::Eq, Reg::R2, 8, end);
        a.set_wide(Reg::R1, 0x1122_3344_5566_7788).store_value(Size::H, Reg::Frame, -2, 7);
        a.bind(end).finish(-1);
        let insns = a.assemble().expect("complete");
        let bytes: Vec<(u8, u8, i16, i32)> =
            insns.iter().map(|i| (i.code, i.registers, i.offset, i.immediate)).collect();
        let expect = [
            (0xbf, 0x16, 0, 0),
            (0x61, 0x62, 16, 0),
            (0x16, 0x02, 3, 8),
            (0x18, 0x01, 0, 0x5566_7788),
            (0x00, 0x00, 0, 0x1122_3344),
            (0x6a, 0x0a, -2, 7),
            (0xb7, 0x00, 0, -1),
            (0x95, 0x00, 0, 0),
        ];
        assert_eq!(bytes, expect);
    }

    #[test]
    fn a_jump_to_nowhere_is_an_error() {
        let mut a = Assembler::new();
        let nowhere = a.label();
        a.jump(nowhere).finish(0);
        assert_eq!(a.assemble(), Err(AssemblyError::Unbound(0)));
    }
}
