"""The examples of Microsoft's documentation of the cmdlets, and what administrators type every day.

Each script is one such session, in bash, with `oyako` before the cmdlet and paths of this host. Of
what is behind a command: a line must be in what it shows (runs of spaces are as one); "! text" in
what it says of its failure; "(nothing)" is shown; without any, it only must succeed.
"""
import os
import re
import subprocess

import pytest

from conftest import PATIENCE

# The machines that the scripts work on, and disk files.
SETTING = """
$ oyako new-vm -Name TestVM -MemoryStartupBytes 512MB -LinuxKernelPath vmlinuz
TestVM Off 0 0 00:00:00 Operating normally
$ oyako new-vm -Name Test2 -LinuxKernelPath vmlinuz
$ truncate -s 4M one.img two.img three.img disc.iso
"""

SCRIPTS = {
    # New-VM, Get-VM, Rename-VM, Remove-VM
    "virtual machines": """
$ oyako New-VM -Name "VM01" -MemoryStartupBytes 512MB
VM01 Off
$ oyako New-VM VM02 1GB 2
$ oyako New-VM -Name "VM03" -MemoryStartupBytes 1gb -VHDPath one.img
$ oyako get-vmharddiskdrive VM03
VM03 SCSI 0 0
$ oyako New-VM -Name "VM04" -MemoryStartupBytes 1GB -NewVHDPath base.vhdx -NewVHDSizeBytes 40GB
$ oyako New-VM -Name "VM05" -Generation 1 -BootDevice CD -NoVHD
! generation 1 is not there yet
$ oyako Get-VM
VM02 Off
$ oyako Get-VM -VMName VM01, "VM02" -ErrorAction SilentlyContinue
VM02 Off
$ oyako Get-VM nosuch -ErrorAction SilentlyContinue
!
$ oyako Get-VM nosuch -EA 0 ; oyako Get-VM 'VM0[12]' | tail -n +3 | wc -l
2
$ oyako Rename-VM VM01 -NewName VM11
$ oyako Get-VM VM11 | oyako Rename-VM -NewName "web 1" -PassThru
web 1 Off
$ oyako Remove-VM "web 1"
! needs a confirmation
$ oyako Remove-VM "web 1" -WhatIf
What if: Performing the operation "Remove-VM" on target "web 1".
$ oyako Get-VM -Name VM* | oyako Remove-VM -Force
$ oyako Remove-VM "web 1" -Confirm:$false
$ oyako Get-VM | oyako Get-VMMemory
TestVM False
$ oyako Get-VM -Name 'VM*' | oyako Remove-VM -Force
(nothing)
""",
    # Start-VM, Stop-VM, Suspend-VM, Resume-VM, Save-VM, Restart-VM, Debug-VM
    "life cycle": """
$ oyako Start-VM -Name 'Test*' -Passthru
Test2 Running
$ oyako Suspend-VM -Name 'Test*'
$ oyako get-vm
TestVM Paused
$ oyako Resume-VM -Name TestVM, Test2
$ oyako debug-vm "TestVM" -InjectNonMaskableInterrupt -Force
$ oyako Get-VM -Name Test2 | oyako Save-VM
$ oyako get-vm Test2
Test2 Saved
$ oyako Remove-VMSavedState Test2
$ oyako Get-VM Test2 -ea:Stop | oyako Start-VM
$ oyako Get-VM | oyako Restart-VM -Force -Confirm:$false
$ oyako Stop-VM -Name TestVM -TurnOff -WhatIf
What if: Performing the operation "Stop-VM" on target "TestVM".
$ oyako Stop-VM 'Test*' -TurnOff -WhatIf
What if: Performing the operation "Stop-VM" on target "Test2".
$ oyako get-vm TestVM | oyako stop-vm -turnoff -passthru | oyako set-vm -ProcessorCount 2 -DynamicMemory -MemoryMaximumBytes 2GB -Passthru | oyako Start-VM -Passthru
TestVM Running
$ oyako Stop-VM -VMName TestVM,Test2 -TurnOff -Force
$ oyako Stop-VM TestVM
(nothing)
$ oyako Start-VM -Name nosuch
! there is no virtual machine of this name
$ oyako Strat-VM TestVM
! did you mean Start-VM?
$ oyako Start-VM -Nmae TestVM
! did you mean -Name?
""",
    # Set-VM, Set-VMMemory, Set-VMProcessor, Set-VMVideo and their Get-
    "settings": """
$ oyako Set-VM -Name TestVM -AutomaticStopAction Shutdown -AutomaticStartAction startifrunning -AutomaticStartDelay 30
$ oyako get-vm TestVM -FormatList
AutomaticStopAction : ShutDown
AutomaticStartAction : StartIfRunning
$ oyako Set-VMMemory TestVM -DynamicMemoryEnabled '$true' -MinimumBytes 64MB -StartupBytes 256MB -MaximumBytes 2GB -Priority 80 -Buffer 25
$ oyako Get-VMMemory TestVM
TestVM True 64 256 2048
$ oyako Set-VMMemory TestVM -DynamicMemoryEnabled $true -MinimumBytes 64MB
! of $true and $false a shell leaves nothing
$ true=true false=false; oyako Set-VMMemory TestVM -DynamicMemoryEnabled $true -MinimumBytes 64MB -StartupBytes 256MB -MaximumBytes 2GB -Priority 80 -Buffer 25
$ true=true false=false; oyako Set-VMProcessor TestVM -ExposeVirtualizationExtensions $false -CompatibilityForMigrationEnabled $false
$ true=true false=false; oyako Set-VMProcessor TestVM -ExposeVirtualizationExtensions $true
! Guests can't run virtual machines themselves
$ oyako Set-VMMemory TestVM -DynamicMemoryEnabled 1 -StartupBytes 0.5GB
$ oyako Get-VM TestVM | oyako Set-VMProcessor -Count 2 -Passthru
TestVM 2
$ oyako Get-VMProcessor 'Test*'
Test2 1
$ oyako Set-VMProcessor TestVM -Count 2 -Reserve 10 -Maximum 75 -RelativeWeight 200
$ oyako Get-VMProcessor TestVM | oyako Format-List
RelativeWeight : 200
$ oyako Get-VMMemory Test2 | oyako Set-VMMemory -StartupBytes 768MB -Passthru
Test2 False 512 768
$ oyako Set-VMVideo -VMName TestVM -HorizontalResolution 1920 -VerticalResolution 1200
$ oyako Get-VMVideo -VMName "TestVM"
TestVM False Default 1920 1200
$ oyako Set-VM TestVM -Notes 'the first one' -StaticMemory -CheckpointType Standard
$ oyako Set-VMProcessor TestVM -Count 0
! is not between 1 and 64
$ oyako Get-VMHost -WarningAction SilentlyContinue
$ oyako Set-VMHost -MacAddressMinimum 00155D020600 -MacAddressMaximum 00155D0206FF
$ oyako Set-VMHost -ResourceMeteringSaveInterval 01:30:00
$ oyako Get-VMHostSupportedVersion -Default
True
$ oyako Get-VM TestVM | oyako Update-VMVersion -Confirm:$false
""",
    # Add-, Get-, Set-, Remove-VMHardDiskDrive, -VMDvdDrive, -VMScsiController
    "drives": """
$ oyako Add-VMHardDiskDrive -VMName TestVM -Path one.img
$ oyako Get-VM TestVM | oyako Add-VMHardDiskDrive -ControllerType SCSI -ControllerNumber 0 -Path two.img
$ oyako Get-VMScsiController -VMName TestVM -ControllerNumber 0 | oyako Add-VMHardDiskDrive -Path three.img
$ oyako Get-VMHardDiskDrive TestVM SCSI 0 1
TestVM SCSI 0 1
$ oyako Get-VMHardDiskDrive -VMName TestVM -ControllerLocation 0 | oyako Set-VMHardDiskDrive -ToControllerLocation 7
$ oyako Get-VM -Name TestVM | oyako Get-VMHardDiskDrive -ControllerType IDE -ControllerNumber 1
(nothing)
$ oyako Remove-VMHardDiskDrive -VMName TestVM -ControllerType SCSI -ControllerNumber 0 -ControllerLocation 7
$ oyako Remove-VMHardDiskDrive TestVM SCSI 0 1
$ oyako Get-VMHardDiskDrive -VMName TestVM | oyako Remove-VMHardDiskDrive -Passthru
TestVM SCSI 0 2
$ oyako Get-VMHardDiskDrive '*'
(nothing)
$ oyako Add-VMDvdDrive -VMName Test2 -Path disc.iso
$ oyako Set-VMDvdDrive -VMName Test2 -ControllerNumber 0 -ControllerLocation 0 -Path $null
$ oyako Get-VMDvdDrive -VMName Test2
Test2 SCSI 0 0 None
$ oyako Get-VMDvdDrive -VMName Test2 | oyako Set-VMDvdDrive -ToControllerLocation 1 -Passthru
Test2 SCSI 0 1
$ oyako Get-VM | oyako Get-VMDvdDrive | oyako Remove-VMDvdDrive
$ oyako Add-VMScsiController -VMName TestVM
$ oyako Get-VMScsiController -VMName TestVM -ControllerNumber 1 | oyako Remove-VMScsiController
$ oyako Get-VM -Name TestVM | oyako Get-VMScsiController
TestVM 0
$ oyako Add-VMHardDiskDrive TestVM IDE 0 0 one.img
! there is no IDE controller 0 in generation 2
$ oyako Get-VM TestVM | oyako Add-VMHardDiskDrive -ControllerType SCSI -ControllerNumber 0
! Add-VMHardDiskDrive needs -Path
$ oyako Add-VMHardDiskDrive -VMName TestVM -ControllerType IDE -Path one.img
! it has no IDE controllers: they are of generation 1
$ oyako Get-VMIdeController -VMName TestVM
(nothing)
""",
    # New-VHD, Get-VHD, Resize-VHD, Convert-VHD
    "disk files": """
$ oyako New-VHD -Path Base.vhdx -SizeBytes 10GB
$ oyako New-VHD -ParentPath Base.vhdx -Path Diff.vhdx -Differencing
$ oyako New-VHD -Path Large.vhdx -BlockSizeBytes 128MB -LogicalSectorSize 4KB -SizeBytes 1TB
$ oyako Get-VHD -Path Base.vhdx, Diff.vhdx
VHDX Differencing 4 10240
$ oyako Resize-VHD -Path Large.vhdx -SizeBytes 1099511627777
! it has whole sectors of 4096 bytes
$ oyako Add-VMHardDiskDrive TestVM -Path Diff.vhdx
$ oyako Get-VM TestVM | oyako Get-VMHardDiskDrive | oyako Get-VHD
VHDX Differencing
$ oyako get-vmharddiskdrive TestVM --json | oyako get-vhd
VHDX Differencing
$ oyako Convert-VHD -Path Base.vhdx -DestinationPath Base.vhd -VHDType dynamic
$ oyako Test-VHD -Path Diff.vhdx
""",
    # Add-, Get-, Connect-, Disconnect-, Remove-VMNetworkAdapter, Get-VMSwitch
    "network": """
$ oyako Add-VMNetworkAdapter -VMName TestVM -Name "Redmond NIC1"
$ oyako Get-VM Test2 | oyako Add-VMNetworkAdapter -SwitchName 'Default Switch' -Name Second
$ oyako Get-VMNetworkAdapter -VMName '*'
Redmond NIC1 TestVM
$ oyako Get-VMNetworkAdapter -All
Second Test2 Default Switch
$ oyako Connect-VMNetworkAdapter -VMName TestVM,Test2 -Name 'Network Adapter' -SwitchName 'Default Switch'
$ oyako Get-VMNetworkAdapter -VMName TestVM -Name Red* | oyako Connect-VMNetworkAdapter -SwitchName 'Default Switch' -Passthru
Redmond NIC1 TestVM Default Switch
$ oyako Get-VMNetworkAdapter -VMName TestVM -Name 'Network Adapter' | oyako Disconnect-VMNetworkAdapter
$ oyako Get-VMNetworkAdapter TestVM
Network Adapter TestVM 00155D
Redmond NIC1 TestVM Default Switch
$ oyako Get-VMSwitch 'Default Switch' | oyako Connect-VMNetworkAdapter -VMName TestVM
$ oyako Get-VMNetworkAdapter TestVM
Network Adapter TestVM Default Switch
$ oyako Remove-VMNetworkAdapter -VMName TestVM -VMNetworkAdapterName 'Redmond NIC1'
$ oyako Get-VMSwitch -SwitchType External
(nothing)
$ oyako Get-VMSwitch | oyako Start-VM
! nothing that Start-VM takes
$ true=true; oyako Get-VM Test2 | oyako Add-VMNetworkAdapter -IsLegacy $true -Name Bootable
! -IsLegacy is not there yet
""",
    # Get-, Set-VMFirmware, New-VM -BootDevice, and what is written about Secure Boot for Linux
    "firmware": """
$ oyako Set-VMFirmware "TestVM" -EnableSecureBoot On
$ oyako Get-VMFirmware "TestVM"
TestVM On MicrosoftWindows IPv4 {Network Adapter} Off Kept, not used yet
$ oyako Set-VMFirmware -VMName TestVM -SecureBootTemplate MicrosoftUEFICertificateAuthority
$ oyako Get-VM TestVM | oyako Set-VMFirmware -EnableSecureBoot Off -Passthru
TestVM Off MicrosoftUEFICertificateAuthority
$ oyako Add-VMHardDiskDrive -VMName TestVM -Path one.img; oyako Add-VMDvdDrive -VMName TestVM -Path disc.iso
$ oyako Set-VMFirmware TestVM -FirstBootDevice "$(oyako Get-VMDvdDrive -VMName TestVM)"
$ oyako Get-VMFirmware TestVM | oyako Select-Object -ExpandProperty BootOrder
SCSI:0:1
$ oyako Set-VMFirmware TestVM -BootOrder "$(oyako Get-VMNetworkAdapter TestVM)", "$(oyako Get-VMHardDiskDrive TestVM)"
$ oyako Get-VMFirmware TestVM
TestVM Off MicrosoftUEFICertificateAuthority IPv4 {Network Adapter, SCSI:0:0} Off
$ oyako Set-VMFirmware -VMName TestVM -PreferredNetworkBootProtocol IPv6 -ConsoleMode None -PauseAfterBootFailure On
$ oyako Get-VMFirmware TestVM | oyako fl '*'
ConsoleMode : None
$ oyako Get-VM | oyako Get-VMFirmware | oyako Where-Object {$_.SecureBoot -eq 'On'}
Test2 On
$ oyako New-VM -Name cd -MemoryStartupBytes 1GB -BootDevice CD -NewVHDPath cd.vhdx -NewVHDSizeBytes 64MB -SwitchName "Default Switch"
$ oyako Get-VMFirmware cd
{SCSI:0:1, SCSI:0:0, Network Adapter}
$ oyako Get-VMBios TestVM
! it is of generation 2, which has UEFI firmware
$ oyako Set-VMFirmware TestVM -EnableSecureBoot Yes
! is none of: On Off
""",
    # Get-, Set-VMComPort
    "serial ports": """
$ oyako Set-VMComPort TestVM 2 \\\\.\\pipe\\TestPipe
$ oyako Get-VMComPort TestVM
TestVM COM 1
TestVM COM 2 \\\\.\\pipe\\TestPipe
$ oyako Set-VMComPort -VMName TestVM -Number 1 -Path "\\\\.\\pipe\\debug" -DebuggerMode On
$ oyako Get-VMComPort TestVM -Number 1 | oyako Format-List Path,DebuggerMode
Path : \\\\.\\pipe\\debug
DebuggerMode : On
$ oyako Get-VM Test2 | oyako Set-VMComPort -Number 1 -Path '\\\\.\\pipe\\two' -Passthru
Test2 COM 1 \\\\.\\pipe\\two
$ oyako start-vm TestVM
$ test -S "$(oyako get-vmcomport TestVM 2 | oyako select -ExpandProperty SocketPath)"
$ oyako Get-VMComPort TestVM | oyako Set-VMComPort -Path $null
$ oyako Get-VMComPort TestVM | oyako where Path -match pipe
(nothing)
$ oyako Set-VMComPort TestVM 3 x
! is not between 1 and 2
""",
    # Get-VMSnapshot TestVM | Get-..., -ParentOf, -ChildOf, and objects as values
    "what was in a checkpoint": """
$ oyako New-VHD one.vhdx -SizeBytes 64MB
$ oyako Add-VMHardDiskDrive TestVM -Path one.vhdx; oyako Add-VMDvdDrive TestVM -Path disc.iso
$ oyako Set-VMMemory TestVM -StartupBytes 256MB
$ oyako Checkpoint-VM TestVM -SnapshotName 'Before applying updates'
$ oyako Set-VMMemory TestVM -StartupBytes 768MB
$ oyako Get-VMSnapshot -VMName TestVM -Name 'Before applying updates' | oyako Get-VMHardDiskDrive
TestVM Before applying updates SCSI 0 0
$ oyako Get-VMSnapshot -VMName TestVM -Name 'Before applying updates' | oyako Get-VMDvdDrive
TestVM Before applying updates SCSI 0 1 ISO
$ oyako Get-VMSnapshot -VMName TestVM -Name 'Before applying updates' | oyako Get-VMScsiController
TestVM Before applying updates 0
$ oyako Get-VMSnapshot -VMName TestVM -Name 'Before applying updates' | oyako Get-VMIntegrationService -Name Shutdown,VSS
TestVM Before applying updates VSS True
$ oyako Get-VMSnapshot TestVM --json | oyako Get-VMMemory
TestVM Before applying updates False 512 256
$ oyako Get-VMMemory TestVM -VMSnapshot Before*
TestVM Before applying updates False 512 256
$ oyako Get-VMSnapshot TestVM | oyako Get-VMHardDiskDrive | oyako Get-VHD
VHDX Dynamic
$ oyako Get-VMSnapshot TestVM | oyako Get-VMHardDiskDrive | oyako Remove-VMHardDiskDrive
! not for a checkpoint
$ oyako Get-VMSnapshot TestVM | oyako Set-VMMemory -StartupBytes 1GB
! not for a checkpoint
$ oyako Checkpoint-VM TestVM -SnapshotName 'After'
$ snapshot="$(oyako Get-VMSnapshot -Name 'Before applying updates' -VMName TestVM)"; oyako Get-VMSnapshot -ChildOf "$snapshot"
TestVM After Standard
$ snapshot="$(oyako Get-VMSnapshot -Name After -VMName TestVM)"; oyako Get-VMSnapshot -ParentOf "$snapshot"
TestVM Before applying updates Standard
$ oyako Get-VMSnapshot -ParentOf "$(oyako Get-VM TestVM)"
TestVM After Standard
$ oyako Restore-VMSnapshot -VMSnapshot "$(oyako Get-VMSnapshot TestVM -Name After)" -Confirm:$false
$ oyako Get-VMSnapshot TestVM | oyako Sort CreationTime | oyako Select -Last 1 | oyako Restore-VMSnapshot -Confirm:$false
""",
    # What a variable holds in PowerShell
    "objects as values": """
$ vm="$(oyako Get-VM TestVM)"; oyako Set-VM -VM "$vm" -Notes mine; oyako Get-VM TestVM | oyako select -ExpandProperty Notes
mine
$ vm="$(oyako Get-VM)"; oyako Enable-VMConsoleSupport -VM "$vm" -Passthru
Test2 Off
$ oyako Get-VMVideo 'Test*' | oyako where Enabled -eq True
TestVM True Default
$ oyako Disable-VMConsoleSupport -VM "$(oyako Get-VM TestVM)"
$ oyako Add-VMHardDiskDrive TestVM -Path one.img; oyako Add-VMHardDiskDrive TestVM -Path two.img
$ disk="$(oyako Get-VMHardDiskDrive TestVM -ControllerLocation 1)"; oyako Set-VMHardDiskDrive -VMHardDiskDrive "$disk" -ToControllerLocation 5
$ oyako Remove-VMHardDiskDrive -VMHardDiskDrive "$(oyako Get-VMHardDiskDrive TestVM)" -Passthru
TestVM SCSI 0 5
$ adapter="$(oyako Get-VMNetworkAdapter Test2)"; switch="$(oyako Get-VMSwitch)"; oyako Connect-VMNetworkAdapter -VMNetworkAdapter "$adapter" -VMSwitch "$switch" -Passthru
Network Adapter Test2 Default Switch
$ oyako Disable-VMIntegrationService -VMIntegrationService "$(oyako Get-VMIntegrationService TestVM -Name VSS)" -Passthru
TestVM VSS False
$ oyako Remove-VMHardDiskDrive -VMHardDiskDrive "$(oyako Get-VMHardDiskDrive TestVM)"
(nothing)
$ oyako Remove-VMHardDiskDrive -VMHardDiskDrive sda
! not what a cmdlet shows
""",
    # Rename-, Set-VMNetworkAdapter
    "addresses of adapters": """
$ oyako Rename-VMNetworkAdapter -VMName TestVM -NewName CoreNet
$ oyako Add-VMNetworkAdapter -VMName TestVM -Name Private -StaticMacAddress 00-15-5D-00-00-AA
$ oyako Rename-VMNetworkAdapter -VMName TestVM -Name Private -NewName Second -Passthru
Second TestVM 00155D0000AA
$ oyako Set-VMNetworkAdapter -VMName TestVM -Name CoreNet -StaticMacAddress 00155D0000AB
$ oyako Get-VMNetworkAdapter -VMName TestVM | oyako where DynamicMacAddressEnabled -eq False | oyako select Name,MacAddress
CoreNet 00155D0000AB
$ oyako Get-VMNetworkAdapter -VMName TestVM | oyako Set-VMNetworkAdapter -MacAddressSpoofing On
$ oyako Get-VMNetworkAdapter TestVM | oyako Select-Object Name,MacAddressSpoofing
Second On
$ oyako Set-VMNetworkAdapter TestVM -Name Second -DynamicMacAddress
$ oyako Get-VMNetworkAdapter -All | oyako Format-Table VMName,Name,Connected
TestVM Second False
$ oyako Set-VMNetworkAdapter -VMName TestVM -DhcpGuard On
! The switch does not look into frames yet
$ oyako Set-VMNetworkAdapter -VMName TestVM -DhcpGuard Off -RouterGuard Off -PortMirroring None -MaximumBandwidth 0
$ oyako Get-VMNetworkAdapter -All | oyako Set-VMNetworkAdapter -VmqWeight 100
! -VmqWeight is not there yet
""",
    # What reports are made of: properties that the tables have not
    "properties that tables lack": """
$ oyako Set-VMProcessor Test2 -Count 4; oyako Set-VM TestVM -AutomaticStartAction Start
$ oyako Get-VM | oyako Where-Object {$_.Generation -eq 2} | oyako Select-Object Name, ProcessorCount
Test2 4
$ oyako Get-VM | oyako Where-Object {$_.ProcessorCount -gt 2}
Test2 Off 0 0 00:00:00 Operating normally
$ oyako Get-VM | oyako Where-Object AutomaticStartAction -eq Start | oyako Set-VM -AutomaticStartAction Nothing -Passthru
TestVM Off
$ oyako Get-VM | oyako Sort-Object ProcessorCount -Descending | oyako Select-Object -First 1 -ExpandProperty Name
Test2
$ oyako Get-VM TestVM | oyako Format-List Name, VMId, Path
Name : TestVM
$ oyako Get-VM -VMName TestVM | oyako Select-Object -ExpandProperty VMId | wc -l
1
$ oyako Add-VMHardDiskDrive TestVM -Path one.img -MaximumIOPS 500
$ oyako Get-VM -VMName TestVM | oyako Select-Object -Property VMId | oyako Get-VHD
Fixed
$ oyako Get-VM | oyako Get-VMHardDiskDrive | oyako where MaximumIOPS -gt 0 | oyako select Path,MaximumIOPS
500
$ oyako Get-VMSwitch | oyako Format-List Name,Id,Notes
Name : Default Switch
$ oyako Get-VMHost | oyako Select-Object -ExpandProperty NumaSpanningEnabled
True
$ oyako Get-VM TestVM | oyako select nosuch
! no property 'nosuch'
$ oyako Get-VM | oyako ? State -eq Off | oyako measure-vm
! is not metered
""",
    # A machine as a how-to makes it: made, given disk, disc and network, checked, exported, removed
    "from new to removed": """
$ oyako New-VM -Name lab01 -MemoryStartupBytes 1024MB -Generation 2 -NewVHDPath lab01.vhdx -NewVHDSizeBytes 64MB -SwitchName "Default Switch"
$ oyako Set-VM -Name lab01 -ProcessorCount 2 -DynamicMemory -MemoryMinimumBytes 512MB -MemoryMaximumBytes 2GB -AutomaticCheckpointsEnabled false -CheckpointType Standard
$ oyako Add-VMDvdDrive -VMName lab01 -Path disc.iso
$ oyako Set-VMFirmware -VMName lab01 -EnableSecureBoot Off -FirstBootDevice "$(oyako Get-VMDvdDrive -VMName lab01)"
$ oyako Enable-VMIntegrationService -VMName lab01 -Name "Guest Service Interface"
$ oyako Set-VM -Name lab01 -LinuxKernelPath vmlinuz
$ oyako Get-VM lab01 | oyako Select-Object Name,Generation,ProcessorCount,DynamicMemoryEnabled,CheckpointType
lab01 2 2 True Standard
$ oyako Start-VM lab01
$ oyako Checkpoint-VM -Name lab01 -SnapshotName "Clean install"
$ oyako Get-VMSnapshot -VMName lab01 | oyako Select-Object VMName,Name,SnapshotType
lab01 Clean install Standard
$ oyako Stop-VM -Name lab01 -TurnOff -Force
$ oyako Restore-VMSnapshot -VMName lab01 -Name "Clean install" -Confirm:$false
$ oyako Get-VM lab01
lab01 Saved
$ oyako Set-VMDvdDrive -VMName lab01 -Path $null
! not possible in its present state
$ mkdir Exports; oyako Export-VMSnapshot -VMName lab01 -Name 'Clean install' -Path Exports
$ oyako Remove-VMSavedState lab01; oyako Get-VMSnapshot lab01 | oyako Remove-VMSnapshot
$ oyako Set-VMDvdDrive -VMName lab01 -Path $null; oyako Get-VMDvdDrive lab01
lab01 SCSI 0 1 None
$ oyako Get-VM lab01 | oyako Get-VMHardDiskDrive | oyako Resize-VHD -SizeBytes 128MB
$ oyako Get-VM lab01 | oyako Remove-VM -Force; oyako Get-VHD lab01.vhdx
VHDX Dynamic
""",
    # Grant-, Revoke-, Get-VMConnectAccess, Get-VMHostNumaNode
    "consoles and host": """
$ oyako Add-VMApiUser John -Role Console
$ oyako Grant-VMConnectAccess -VMName TestVM -UserName John
$ oyako Get-VMConnectAccess
TestVM John
$ oyako Grant-VMConnectAccess -VMId "$(oyako Get-VM Test2 | oyako select -ExpandProperty VMId)" -UserName John
$ oyako Get-VMConnectAccess -UserName John | oyako select VMName
Test2
$ oyako Revoke-VMConnectAccess -VMName TestVM -UserName John; oyako Get-VMConnectAccess -VMName TestVM
(nothing)
$ oyako Get-VMConnectAccess -VMId 00000000-0000-0000-0000-000000000001
! no virtual machine with this identifier
$ oyako Get-VMHostNumaNode
0 {
$ oyako Get-VMHostNumaNode -Id 0 | oyako select -ExpandProperty NodeId
0
$ mkdir vms disks; oyako Set-VMHost -VirtualHardDiskPath disks -VirtualMachinePath vms -Passthru | oyako fl VirtualMachinePath
vms
$ oyako New-VM third -Path vms | oyako select -ExpandProperty Name
third
""",
    # Checkpoint-VM, Get-, Rename-, Restore-, Remove-VMSnapshot
    "checkpoints": """
$ oyako Checkpoint-VM -Name TestVM -SnapshotName BeforeInstallingUpdates
$ oyako Get-VM | oyako Checkpoint-VM -SnapshotName 'Experiment 1'
$ oyako Get-VMSnapshot -VMName TestVM
TestVM BeforeInstallingUpdates Standard
$ oyako Get-VM -Name TestVM | oyako Get-VMSnapshot -SnapshotType Standard
TestVM Experiment 1 Standard
$ oyako Restore-VMSnapshot -Name 'BeforeInstallingUpdates' -VMName TestVM -Confirm:$false
$ oyako Rename-VMSnapshot -VMName TestVM -Name "Experiment 1" -NewName "Experiment 1: applied all updates"
$ oyako Get-VMCheckpoint TestVM | oyako Get-VMHardDiskDrive
(nothing)
$ oyako Get-VMSnapshot Test2 | oyako Restore-VMSnapshot
$ oyako Get-VM TestVM | oyako Remove-VMSnapshot -Name 'Experiment*'
$ oyako Get-VMSnapshot 'Test*' | oyako Remove-VMSnapshot
$ oyako Get-VM | oyako Get-VMSnapshot
(nothing)
""",
    # Get-, Enable-, Disable-VMIntegrationService
    "integration services": """
$ oyako Disable-VMIntegrationService -Name Shutdown,VSS -VMName TestVM
$ oyako Get-VMIntegrationService Shutdown,Vss -VMName TestVM
TestVM Shutdown False
$ oyako Get-VMIntegrationService Shutdown, Vss -VMName TestVM | oyako Enable-VMIntegrationService -Passthru
TestVM VSS True
$ oyako Get-VMIntegrationService -VMName TestVM | oyako Where-Object {$_.SecondaryOperationalStatus -eq 'ProtocolMismatch'}
(nothing)
$ oyako Get-VM TestVM | oyako Enable-VMIntegrationService "Guest Service Interface"
$ oyako Get-VM -Name TestVM | oyako Get-VMIntegrationService -Name G*
TestVM Guest Service Interface True
""",
    # Enable-, Disable-, Reset-VMResourceMetering, Measure-VM
    "metering": """
$ oyako Enable-VMResourceMetering -VMName TestVM
$ oyako Get-VM Test2 | oyako Enable-VMResourceMetering
$ oyako Measure-VM -VMName TestVM
TestVM
$ oyako Get-VM 'Test*' | oyako Measure-VM
Test2
$ oyako Get-VM TestVM | oyako Reset-VMResourceMetering
$ oyako Get-VM 'Test*' | oyako Disable-VMResourceMetering
""",
    # New-, Get-, Rename-, Remove-VMGroup, Add-, Remove-VMGroupMember
    "groups": """
$ oyako New-VMGroup -Name 'CollectionGroup07' -GroupType VMCollectionType
$ oyako New-VMGroup -Name 'ManagementCollectionGroup03' -GroupType ManagementCollectionType
$ oyako Add-VMGroupMember -Name "CollectionGroup07" -VM TestVM, Test2
$ oyako Add-VMGroupMember -Name "ManagementCollectionGroup03" -VMGroupMember CollectionGroup07
$ oyako Remove-VMGroupMember -Name "CollectionGroup07" -VM Test2
$ oyako Get-VMGroup -Name "CollectionGroup07"
CollectionGroup07 VMCollectionType {TestVM}
$ oyako Rename-VMGroup -Name "CollectionGroup07" -NewName "Group01"
$ oyako Get-VMGroup 'Man*' | oyako Rename-VMGroup -NewName Group02 -Passthru
Group02 ManagementCollectionType {} {Group01}
$ oyako Remove-VMGroup -Name "Group02" -Force
""",
    # Export-VM, Import-VM
    "export and import": """
$ mkdir out
$ oyako Export-VM -Name TestVM -Path out
$ oyako Get-VM Test2 | oyako Export-VM -Path out -Passthru
Test2 Off
$ oyako Compare-VM -Name TestVM -DestinationHost TestDestinationHost
! There is no migration yet
$ oyako Get-VM | oyako Remove-VM -Force
$ oyako Import-VM -Path "$(find out/TestVM -name vm.json)" | oyako Set-VMProcessor -Count 2 -Passthru
TestVM 2
$ oyako Import-VM -Path "$(find out/Test2 -name vm.json)" -Copy -GenerateNewId
Test2 Off
""",
    # Where-Object, Select-Object, Sort-Object, Format-List, Format-Table, as the examples use them
    "choosing objects": """
$ oyako start-vm TestVM
$ oyako Get-VM | oyako Where-Object {$_.State -eq 'Running'}
TestVM Running
$ oyako Get-VM | oyako Where-Object '{$_.State -eq "Off"}' | oyako Start-VM -Passthru
Test2 Running
$ oyako Get-VM | oyako where State -ne Off | oyako stop-vm -TurnOff
$ oyako Get-VM | oyako where State -eq Running
(nothing)
$ oyako Get-VM | oyako where MemoryStartup -ge 512MB | oyako get-vmmemory
TestVM False
$ oyako Get-VM TestVM | oyako Format-List Name,ResourceMeteringEnabled
ResourceMeteringEnabled : False
$ oyako Get-VM -VMName TestVM | oyako Select-Object -Property Name, State
TestVM Off
$ oyako Get-VM | oyako sort-object Name -Descending | oyako select-object -First 1 | oyako select -ExpandProperty Name
TestVM
$ oyako Get-VMNetworkAdapter -VMName '*' | oyako Where-Object {$_.SwitchName -eq 'InternetAccess'} | oyako Disconnect-VMNetworkAdapter
(nothing)
$ oyako Get-VM | oyako where Name -like 'test?' | oyako where Name -notlike '*VM' | oyako Remove-VM -Force
$ oyako get-vm | oyako format-table Name
TestVM
$ oyako get-vm | oyako where Nmae -eq x
! no property 'Nmae' comes through the pipe
$ oyako get-vm | oyako where Name -match '['
! is no regular expression
$ oyako get-vm | oyako where Name -eq $true
! needs a value
$ oyako where-object Name </dev/null
! stands behind a pipe
""",
    # What a pipe takes and does not
    "pipes": """
$ oyako get-vm nosuch | oyako start-vm
(nothing)
$ oyako get-vm 'no*' | oyako start-vm
(nothing)
$ oyako get-vm --json | oyako get-vmprocessor --json | grep -c VMName
2
$ oyako get-vm TestVM --json | oyako get-vmharddiskdrive --json
[]
$ echo hello | oyako start-vm
! not what a cmdlet shows: 'hello'
$ oyako start-vm </dev/null
! Start-VM needs -Name
$ oyako get-vm | oyako new-vm -Name third | oyako get-vmmemory
third False
$ oyako get-vm 'Test*' | oyako get-vmmemory | oyako get-vmprocessor
TestVM 1
""",
}


def steps(script):
    """The commands of a script, each with the lines that it must show."""
    for part in re.split(r"^\$ ", script, flags=re.M)[1:]:
        command, *wanted = part.strip().splitlines()
        yield command, [" ".join(line.split()) for line in wanted]


def judge(command, wanted, done):
    shown = [" ".join(line.split()) for line in done.stdout.splitlines()]
    told = "$ %s\n%s%s(status %d)" % (command, done.stdout, done.stderr, done.returncode)
    refused = [line[1:].strip() for line in wanted if line.startswith("!")]
    assert (done.returncode != 0) == bool(refused), told
    for text in refused:
        assert text in done.stderr, told
    if wanted == ["(nothing)"]:
        assert not shown, told
    elif not refused:
        for line in wanted:
            assert any(line in one for one in shown), "%r is not in\n%s" % (line, told)


def run(host, script):
    env = dict(host.env, PATH=os.path.dirname(host.command()[0]) + ":" + host.env["PATH"])
    for command, wanted in steps(script):
        done = subprocess.run(["bash", "-c", command], env=env, cwd=host.folder, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=PATIENCE)
        judge(command, wanted, done)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(host, name):
    run(host, SETTING + SCRIPTS[name])
