package service

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// task is what the task scheduler of Windows is given. It begins at the user's logon,
// with the user's own rights, and has no end.
const task = `<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Keeps the services that this device may reach through Postern reachable, for one user.</Description>
    <URI>\NAME</URI>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Enabled>true</Enabled>
      <UserId>USER</UserId>
    </LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>USER</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <RunOnlyIfNetworkAvailable>false</RunOnlyIfNetworkAvailable>
    <IdleSettings>
      <StopOnIdleEnd>false</StopOnIdleEnd>
      <RestartOnIdle>false</RestartOnIdle>
    </IdleSettings>
    <AllowStartOnDemand>true</AllowStartOnDemand>
    <Enabled>true</Enabled>
    <Hidden>false</Hidden>
    <RunOnlyIfIdle>false</RunOnlyIfIdle>
    <WakeToRun>false</WakeToRun>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>7</Priority>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>255</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>COMMAND</Command>
      <Arguments>ARGUMENTS</Arguments>
    </Exec>
  </Actions>
</Task>
`

// Task returns the task for spec and the user with the security identifier given. It
// is [ErrText] when a word has what the scheduler would replace: %NAME% and $(ARG).
func Task(spec Spec, user string) (string, error) {
	var words []string
	for i, word := range append([]string{spec.Program}, spec.Args...) {
		if strings.Count(word, "%") > 1 || strings.Contains(word, "$(") {
			return "", fmt.Errorf("%q %w", word, ErrText)
		}
		if i > 0 {
			words = append(words, quoteWindows(word))
		}
	}
	arguments := strings.Join(words, " ")
	if strings.Count(arguments, "%") > 1 { // two words could make one name
		return "", fmt.Errorf("%q %w", arguments, ErrText)
	}
	return strings.NewReplacer("NAME", quoteXML(taskName(user)), "USER", quoteXML(user),
		"COMMAND", quoteXML(spec.Program), "ARGUMENTS", quoteXML(arguments)).Replace(task), nil
}

// quoteWindows quotes one word as programs on Windows take their command lines apart:
// backslashes count only before a quotation mark, and are doubled there.
func quoteWindows(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\"") {
		return word
	}
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for i := range len(word) {
		switch word[i] {
		case '\\':
			slashes++
		case '"':
			b.WriteString(strings.Repeat(`\`, slashes+1))
			slashes = 0
		default:
			slashes = 0
		}
		b.WriteByte(word[i])
	}
	b.WriteString(strings.Repeat(`\`, slashes))
	b.WriteByte('"')
	return b.String()
}

// taskName is the task's name: all users' tasks are in one place.
func taskName(user string) string { return "Postern " + user }

// taskScheduler is the manager of Windows that runs programs as the user.
type taskScheduler struct{ user, file string }

func (t taskScheduler) state() State {
	return State{Installed: exists(t.file), Manager: "task scheduler", Name: taskName(t.user), File: t.file}
}

func (t taskScheduler) text(spec Spec) (string, error) { return Task(spec, t.user) }

// encode returns the text as schtasks reads it: UTF-16 with a mark of its byte order.
func (t taskScheduler) encode(text string) []byte {
	b := binary.LittleEndian.AppendUint16(nil, 0xfeff)
	for _, unit := range utf16.Encode([]rune(strings.ReplaceAll(text, "\n", "\r\n"))) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

func (t taskScheduler) load(ctx context.Context) error {
	if err := t.schtasks(ctx, "/Create", "/XML", t.file, "/F"); err != nil {
		return err
	}
	if err := t.stop(ctx); err != nil { // an older one runs on otherwise
		return err
	}
	return t.start(ctx)
}

func (t taskScheduler) unload(ctx context.Context) error {
	if err := t.stop(ctx); err != nil {
		return err
	}
	return t.schtasks(ctx, "/Delete", "/F")
}

func (t taskScheduler) forget(context.Context) error    { return nil }
func (t taskScheduler) start(ctx context.Context) error { return t.schtasks(ctx, "/Run") }

// stop ends the task if it runs: to end one that does not is an error.
func (t taskScheduler) stop(ctx context.Context) error {
	running, err := t.running(ctx)
	if err != nil || !running {
		return err
	}
	return t.schtasks(ctx, "/End")
}

// running asks PowerShell: schtasks answers in the language of the system.
func (t taskScheduler) running(ctx context.Context) (bool, error) {
	out, err := run(ctx, "powershell.exe", "-NoProfile", "-NonInteractive", "-Command",
		"(Get-ScheduledTask -TaskName '"+strings.ReplaceAll(taskName(t.user), "'", "''")+"').State")
	return strings.TrimSpace(out) == "Running", err
}

func (t taskScheduler) schtasks(ctx context.Context, args ...string) error {
	_, err := run(ctx, "schtasks.exe", append(args, "/TN", taskName(t.user))...)
	return err
}
