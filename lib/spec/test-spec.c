/* The layouts are checked at compile time by the headers' own asserts. */
#include "spec/hv.h"
#include "spec/ic.h"
#include "spec/scsi.h"
#include "spec/smbios.h"
#include "spec/storvsp.h"
#include "spec/vhdx.h"
#include "spec/vmbus.h"

int main(void)
{
	return 0;
}
