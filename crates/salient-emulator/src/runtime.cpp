// The one variable that kernels and scheduler share.
#include "salient_emulator.h"

extern "C" {
__thread emulated::Thread* salient_emulated_thread = nullptr;
void salient_emulated_set_thread(emulated::Thread* thread) { salient_emulated_thread = thread; }
}
