// Package terminal shows text and progress to people at a terminal.
package terminal

import (
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Bar shows on standard error how far a long task is, if that is a terminal.
// Its zero value is ready.
type Bar struct {
	began time.Time
	what  string
	bars  *mpb.Progress
	bar   *mpb.Bar
}

// showAfter keeps short scans from flickering.
const showAfter = time.Second

// Set shows how much of a task is done, once it takes long.
func (p *Bar) Set(what string, done, total int64) {
	if what != p.what {
		p.Finish()
		p.what, p.began = what, time.Now()
	}
	if p.bar == nil {
		if time.Since(p.began) < showAfter || !isatty.IsTerminal(os.Stderr.Fd()) {
			return
		}
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40))
		p.bar = p.bars.AddBar(total, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(what, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace)))
	}
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(done)
}

// Finish takes the bar away.
func (p *Bar) Finish() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
	*p = Bar{}
}

// Progress is Set, and Finish at the end of a task.
func (p *Bar) Progress(what string, done, total int64) {
	if p.Set(what, done, total); done >= total {
		p.Finish()
	}
}
