package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticksPerSecond is the unit of /proc/PID/stat: Linux has reported 100 to programs on every architecture since 2.6.
const ticksPerSecond = 100

// cpuSeconds is the user and system time of a process; 0 if it does not run.
func cpuSeconds(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	return parseCPUSeconds(string(text))
}

// otherSeconds is the CPU time that the machine has spent since its start, apart from this process and its children. A
// difference between two shows how much other programs disturbed the measurement.
func otherSeconds() float64 {
	text, _ := os.ReadFile("/proc/stat")
	others := parseBusySeconds(string(text))
	self := os.Getpid()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if pid == self || parentOf(string(text)) == self {
			others -= parseCPUSeconds(string(text))
		}
	}
	return others
}

// parseBusySeconds adds the first line's user, nice, system, irq, softirq and steal. Fields 4 and 5 are idle, iowait.
func parseBusySeconds(stat string) (busy float64) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		if i < len(fields) {
			ticks, _ := strconv.ParseFloat(fields[i], 64)
			busy += ticks / ticksPerSecond
		}
	}
	return busy
}

// parentOf reads field 4 of /proc/PID/stat.
func parentOf(stat string) int {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 2 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[1])
	return pid
}

// parseCPUSeconds reads fields 14 and 15, utime and stime. The command's name, field 2, may contain spaces, so fields
// are counted after its closing parenthesis.
func parseCPUSeconds(stat string) float64 {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond
}

// peakMiB is the largest resident set that a process has had since it started (VmHWM); 0 if it does not run.
func peakMiB(pid int) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return procKiB(string(text), "VmHWM:") / 1024
}

// machineMiB is the memory of this machine.
func machineMiB() float64 {
	text, _ := os.ReadFile("/proc/meminfo")
	return procKiB(string(text), "MemTotal:") / 1024
}

// procKiB reads a line such as "VmHWM:   123456 kB"; 0 if it is missing.
func procKiB(text, name string) float64 {
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, name); found {
			kib, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kib
		}
	}
	return 0
}
