//! Where in a function a probe costs least (x86-64). In: the code of a function. Out: places at its
//! beginning and at its ends.
//!
//! A probed instruction is replaced by a trap. What it did is then done by the kernel itself, if it
//! is a jump, a call, a push or a nop; any other is run out of place, and the processor is told to
//! stop after it. That second stop costs more than all the rest, on virtual machines up to a hundred
//! times as much: their processor asks the hypervisor. So a probe goes to an instruction of the
//! first kind where one is near, as long as nothing that its program reads has changed on the way.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

/// Instructions from the beginning of a function that are looked at.
const FURTHEST: usize = 16;
/// Where the thread's canary lies, in the segment `fs`.
const CANARY: u64 = 0x28;

/// An instruction that the kernel does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset in the file.
    pub offset: u64,
    /// By how many bytes the stack has grown there since the function began.
    pub depth: u64,
}

/// The code of one function, taken apart.
pub(super) struct Function {
    instructions: Vec<Instruction>,
    length: u64,
}

impl Function {
    /// `None` if not all of it is understood.
    pub(super) fn new(code: &[u8]) -> Option<Self> {
        let instructions: Vec<_> = Decoder::new(64, code, DecoderOptions::NONE).iter().collect();
        let is_understood = instructions.iter().all(|each| !each.is_invalid());
        is_understood.then_some(Self { instructions, length: code.len() as u64 })
    }

    /// The first place, at which these registers still hold what they held at the beginning. Each
    /// call comes by once, and all come by.
    pub(super) fn beginning(&self, kept: &[Register]) -> Option<Place> {
        let mut depth = 0;
        for instruction in self.instructions.iter().take(FURTHEST) {
            if is_done_by_kernel(instruction) {
                let at = instruction.ip();
                return (!self.is_jumped_into(1, at)).then_some(Place { offset: at, depth });
            }
            depth += grown_by(instruction)?;
            if instruction.flow_control() != FlowControl::Next || writes(instruction, kept) {
                return None;
            }
        }
        None
    }

    /// Places of which each call passes one at its end, with its result in `rax`; `None` if there
    /// is an end without. They are where a compiler has the function look whether its stack is
    /// whole, the last jump before it returns.
    pub(super) fn ends(&self) -> Option<Vec<Place>> {
        let mut ends = Vec::new();
        for (index, instruction) in self.instructions.iter().enumerate() {
            let leaves = || instruction.near_branch_target() >= self.length;
            match instruction.flow_control() {
                FlowControl::Return => ends.push(self.end_before(index)?),
                FlowControl::IndirectBranch => return None,
                FlowControl::UnconditionalBranch if leaves() => return None,
                FlowControl::ConditionalBranch if leaves() && !self.is_check_of_canary(index) => {
                    return None;
                }
                _ => {}
            }
        }
        (!ends.is_empty()).then_some(ends)
    }

    /// The check of the canary right before this return.
    fn end_before(&self, index: usize) -> Option<Place> {
        let mut depth = 0;
        for at in (0..index).rev() {
            let instruction = &self.instructions[at];
            if self.is_check_of_canary(at) {
                let (from, to) = (instruction.next_ip(), self.instructions[index].ip());
                let place = Place { offset: instruction.ip(), depth };
                return (!self.is_jumped_into(from, to)).then_some(place);
            }
            let is_plain = instruction.flow_control() == FlowControl::Next;
            if !is_plain || writes(instruction, &[Register::RAX]) {
                return None;
            }
            depth += shrunk_by(instruction)?;
        }
        None
    }

    /// Whether this is the jump away from a function whose stack was overwritten.
    fn is_check_of_canary(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1).map(|before| &self.instructions[before]) else {
            return false;
        };
        let compares = matches!(before.mnemonic(), Mnemonic::Sub | Mnemonic::Xor | Mnemonic::Cmp);
        let reads = before.memory_segment() == Register::FS
            && before.memory_base() == Register::None
            && before.memory_displacement64() == CANARY;
        let instruction = &self.instructions[index];
        compares
            && reads
            && instruction.mnemonic() == Mnemonic::Jne
            && is_done_by_kernel(instruction)
    }

    /// Whether a jump leads to one of these addresses, both included.
    fn is_jumped_into(&self, from: u64, to: u64) -> bool {
        self.instructions.iter().any(|instruction| {
            let jumps = matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            );
            // A jump of which nobody knows where it leads may lead there.
            let anywhere = instruction.flow_control() == FlowControl::IndirectBranch;
            let target = instruction.near_branch_target();
            anywhere || (jumps && (from..=to).contains(&target))
        })
    }
}

/// What Linux has done by itself since 4.20; with a prefix it does less.
fn is_done_by_kernel(instruction: &Instruction) -> bool {
    let is_push = matches!(instruction.code(), Code::Push_r64);
    let is_near = matches!(
        instruction.code(),
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 | Code::Call_rel32_64 | Code::Nopd
    );
    let is_conditional = instruction.flow_control() == FlowControl::ConditionalBranch
        && instruction.is_jcc_short_or_near();
    // One byte, or two for the registers from r8 on; a jump has no prefix at its usual lengths.
    let length = instruction.len();
    match () {
        () if is_push => length <= 2,
        () if is_near => [1, 2, 5].contains(&length),
        () if is_conditional => [2, 6].contains(&length),
        () => false,
    }
}

/// By how many bytes the stack grows; `None` if that cannot be told.
fn grown_by(instruction: &Instruction) -> Option<u64> {
    if !writes(instruction, &[Register::RSP]) {
        return Some(0);
    }
    let by = constant_of_stack(instruction, Mnemonic::Sub)?;
    (by < i32::MAX as u64).then_some(by)
}

/// By how many bytes it shrinks.
fn shrunk_by(instruction: &Instruction) -> Option<u64> {
    if !writes(instruction, &[Register::RSP]) {
        return Some(0);
    }
    if instruction.code() == Code::Pop_r64 && instruction.op0_register() != Register::RSP {
        return Some(8);
    }
    let by = constant_of_stack(instruction, Mnemonic::Add)?;
    (by < i32::MAX as u64).then_some(by)
}

/// `mnemonic rsp, constant`.
fn constant_of_stack(instruction: &Instruction, mnemonic: Mnemonic) -> Option<u64> {
    let is_constant = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8 | OpKind::Immediate8to64 | OpKind::Immediate32to64
    );
    let is_it = instruction.mnemonic() == mnemonic
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::RSP
        && is_constant;
    is_it.then(|| instruction.immediate(1))
}

fn writes(instruction: &Instruction, registers: &[Register]) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    info.used_registers().iter().any(|used| {
        let is_written = !matches!(
            used.access(),
            OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess | OpAccess::None
        );
        is_written && registers.contains(&used.register().full_register())
    })
}

#[cfg(test)]
mod tests {
    use super::{Function, Place};
    use iced_x86::Register;

    const ARGUMENTS: [Register; 2] = [Register::RDI, Register::RSI];

    fn beginning(code: &[u8]) -> Option<Place> {
        Function::new(code).unwrap().beginning(&ARGUMENTS)
    }

    /// As Debian's OpenSSL has it: sub rsp, 24; mov rax, fs:40; mov [rsp+8], rax; xor eax, eax;
    /// test edx, edx; js +21; call +0; mov rdx, [rsp+8]; sub rdx, fs:40; jne +8; add rsp, 24;
    /// xor edx, edx; ret; nop; call +0
    const GUARDED: &[u8] = &[
        0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0x48, 0x89, 0x44,
        0x24, 0x08, 0x31, 0xc0, 0x85, 0xd2, 0x78, 0x05, 0xe8, 0, 0, 0, 0, 0x48, 0x8b, 0x54, 0x24,
        0x08, 0x64, 0x48, 0x2b, 0x14, 0x25, 0x28, 0, 0, 0, 0x75, 0x08, 0x48, 0x83, 0xc4, 0x18,
        0x31, 0xd2, 0xc3, 0x90, 0xe8, 0, 0, 0, 0,
    ];

    #[test]
    fn a_function_with_a_canary_has_places_at_both_ends() {
        let function = Function::new(GUARDED).unwrap();
        assert_eq!(function.beginning(&ARGUMENTS), Some(Place { offset: 22, depth: 24 }));
        assert_eq!(function.ends(), Some(vec![Place { offset: 43, depth: 24 }]));
    }

    #[test]
    fn the_landing_mark_of_a_function_is_passed_by() {
        // endbr64; push rbp; ret
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3];
        assert_eq!(beginning(&code), Some(Place { offset: 4, depth: 0 }));
    }

    #[test]
    fn nothing_that_is_read_has_changed() {
        // sub rsp, 8; mov esi, 1; call +0; ret
        let code = [0x48, 0x83, 0xec, 0x08, 0xbe, 1, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xc3];
        assert_eq!(beginning(&code), None);
        // and rsp, -16; push rbp; ret
        assert_eq!(beginning(&[0x48, 0x83, 0xe4, 0xf0, 0x55, 0xc3]), None);
    }

    #[test]
    fn a_place_in_a_loop_is_none() {
        // dec ecx; jne -4, to itself; ret
        assert_eq!(beginning(&[0xff, 0xc9, 0x75, 0xfc, 0xc3]).map(|place| place.offset), Some(2));
        // nop dword [rax]; dec ecx; jne -4, to dec; ret
        let code = [0x48, 0x89, 0xc0, 0xff, 0xc9, 0x75, 0xfc, 0xc3];
        assert_eq!(beginning(&code), None);
    }

    #[test]
    fn an_end_without_a_check_spoils_them_all() {
        let mut code = GUARDED.to_vec();
        // A second return, behind everything.
        code.push(0xc3);
        assert_eq!(Function::new(&code).unwrap().ends(), None);
        // Or a jump to another function.
        *code.last_mut().unwrap() = 0xe9;
        code.extend([0, 1, 0, 0]);
        assert_eq!(Function::new(&code).unwrap().ends(), None);
    }

    #[test]
    fn a_result_that_is_made_after_the_check_is_none() {
        let mut code = GUARDED.to_vec();
        let at = code.windows(2).rposition(|pair| pair == [0x31, 0xd2]).unwrap();
        // xor eax, eax instead of xor edx, edx
        code[at + 1] = 0xc0;
        assert_eq!(Function::new(&code).unwrap().ends(), None);
    }
}
