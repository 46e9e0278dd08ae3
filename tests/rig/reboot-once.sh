# Runs as /run.sh in the guest. Marks the disk and reboots; when the mark is there, checks what the
# first boot wrote and powers off.
if [ "$(head -c 5 /dev/sda)" = again ]; then
	echo "second boot on $(nproc) processors"
	tail -c +1048577 /dev/sda | head -c 33554432 | md5sum
	cat /sys/devices/system/clocksource/clocksource0/current_clocksource
	grep -E 'HYP|LOC|RES' /proc/interrupts
else
	echo "first boot"
	dd if=/dev/urandom of=/random bs=1M count=32 2>/dev/null
	md5sum </random
	dd if=/random of=/dev/sda bs=1M seek=1 conv=fsync 2>/dev/null
	printf again | dd of=/dev/sda conv=fsync 2>/dev/null
	reboot -f
	sleep 100
fi
