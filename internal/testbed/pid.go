package testbed

// PID is the program's process id, 0 while it does not run.
func (p *Program) PID() int { return p.process.pid() }

// APIServerPID is kube-apiserver's process id, 0 while it does not run.
func (c *ControlPlane) APIServerPID() int { return c.apiserver.pid() }
