"""What finished runs show: a study in each module, whose options are described in conf/study/<its name>.yaml."""
